"""Heads, their loss and PretrainedBackbone in mmengine's FlexibleRunner with FSDP."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

from tests.helpers.processes import ROOT, run_python
from tests.helpers.sharded_run import MODEL
from tests.helpers.torch_features import VERSION


def test_a_sharded_run_loads_trains_and_saves_what_the_stock_head_reads(tmp_path, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build({**MODEL, 'decode_head': {**MODEL['decode_head'], 'type': 'PSPHead'}})
    torch.save(model.backbone.state_dict(), tmp_path / 'backbone.pth')
    torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    code, output = run_python(*torchrun, '-m', 'tests.helpers.sharded_run', tmp_path)
    needs_gpu = ['Stream() takes no arguments']  # torch 2.1
    if VERSION == (2, 4):  # it dies while it saves, also of the stock head
        needs_gpu.append('SIGSEGV')
    if code and any(message in output for message in needs_gpu):
        pytest.skip(f'torch {torch.__version__} shards no model without a GPU')
    assert code == 0, output[-4000:]
    assert 'coverage 100.00%' in output
    loaded = torch.load(tmp_path / 'iter_3.pth', weights_only=False)['state_dict']
    before = model.decode_head.conv_seg.weight.clone()
    model.load_state_dict(loaded)
    assert not torch.equal(model.decode_head.conv_seg.weight, before)
