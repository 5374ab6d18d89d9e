"""The tool that compares ``pspnet_plugin.accelerate`` with stock for families of models."""

import importlib
import math

import pytest
import torch

from pspnet_plugin import replacements
from pspnet_plugin.heads import FactorizedPSPHead
from tests.helpers.processes import ROOT, run_python

TOOL = ROOT / 'tools' / 'analysis' / 'accelerate_families.py'
WRONG_BY = 1e-6


class WrongHead(FactorizedPSPHead):
    """Logits that are wrong by a millionth."""

    def forward(self, inputs):
        return super().forward(inputs) * (1 + WRONG_BY)


@pytest.fixture
def tool(monkeypatch):
    """The tool as a module, timing next to nothing."""
    monkeypatch.syspath_prepend(TOOL.parent)
    module = importlib.import_module(TOOL.stem)
    monkeypatch.setattr(module, 'TIMED_SIZE', 64)
    monkeypatch.setattr(module, 'RUNS', 1)
    return module


def test_table_tells_what_is_equal_and_what_cannot_be_built():
    code, output = run_python(TOOL, '--families', 'fastscnn', 'mask2former')
    assert code == 0, output[-4000:]
    table = [
        [cell.strip() for cell in line.split('|')[1:-1]]
        for line in output.splitlines()
        if line.startswith('|')
    ]
    header, _, fastscnn, mask2former = table
    assert header[:3] == ['family', 'config', 'replaced']
    assert fastscnn[:3] == ['fastscnn', 'fast_scnn_8xb4-160k_cityscapes-512x1024', 'FCNHead']
    assert 0 <= float(fastscnn[3]) <= 1e-9
    assert 0 < float(fastscnn[4]) <= 1e-9
    assert float(fastscnn[5].removesuffix(' x')) > 0
    assert mask2former[2:6] == [''] * 4
    assert 'mmdet' in mask2former[6]


def test_head_that_is_wrong_by_a_millionth_is_seen(tool, tmp_path, monkeypatch):
    monkeypatch.setitem(replacements.REPLACEMENTS, 'PSPHead', WrongHead)
    monkeypatch.chdir(tmp_path)
    row = tool.measure_family('pspnet')
    assert row['remarks'] == ''
    assert row['replaced'] == 'PSPHead, FCNHead'
    wrong = [row[name].removeprefix('unequal: ') for name in ('prediction', 'loss and gradients')]
    assert float(wrong[0]) == pytest.approx(WRONG_BY, rel=0.05)
    assert float(wrong[1]) > 0.01 * WRONG_BY


def test_differences_are_relative_to_the_largest_value_of_each_tensor(tool):
    difference = tool.relative_difference
    expected = {'a': torch.tensor([10.0, 1.0]), 'b': torch.tensor([0.5]), 'labels': torch.arange(3)}
    assert difference(expected, expected) == 0
    assert difference(expected, {**expected, 'b': torch.tensor([0.75])}) == 0.5
    noise = {**expected, 'b': torch.tensor([1e-12])}  # is nothing beside a gradient of ten
    assert difference(noise, {**noise, 'b': torch.tensor([2e-12])}) == pytest.approx(1e-10)
    assert difference(expected, {**expected, 'labels': torch.tensor([0, 1, 1])}) == 0.5
    assert difference(expected, {'a': expected['a']}) == math.inf
    assert math.isnan(difference(expected, {**expected, 'b': torch.tensor([math.nan])}))
