"""How the benchmark measures: by turns, peak memory within a step, and ratios to stock."""

import itertools
import time

import pytest
import torch
from benchmark import measuring
from benchmark.measuring import Settings
from torch.utils.benchmark import Measurement
from torch.utils.benchmark.utils.common import TaskSpec

from pspnet_plugin.utils.text import table_as_text

MB = 10**6


def test_variants_run_by_turns_and_label_maps_are_compared_with_stock():
    order = []

    def noting(name, labels):
        def step():
            order.append(name)
            time.sleep(0.02)
            return torch.tensor(labels)

        return step

    steps = {'stock': noting('stock', [0, 1, 2, 3]), 'ours': noting('ours', [0, 1, 2, 4])}
    case = measuring.Case('label', lambda: steps, keeping=('ours',))
    stock, ours = measuring.measure(case, Settings(runs=2))
    assert [name for name, _ in itertools.groupby(order)] == ['stock', 'ours'] * 3
    assert (stock.equal_labels, ours.equal_labels) == (100, 75)
    spec = ours.time.task_spec
    assert (spec.label, spec.description) == ('label', 'ours')
    assert len(ours.time.times) >= 2


def test_peak_memory_is_what_is_held_at_once_within_the_step():
    held = torch.ones(5 * MB, dtype=torch.uint8)

    def step():
        first = torch.ones(20 * MB, dtype=torch.uint8)
        del first
        return torch.ones(10 * MB, dtype=torch.uint8), torch.ones(15 * MB, dtype=torch.uint8), held

    assert measuring.peak_memory(step, Settings()) == pytest.approx(25 * MB, abs=1000)


def test_peak_memory_of_a_training_step_counts_what_the_backward_pass_needs():
    x = torch.ones(MB, requires_grad=True)
    kept = measuring.peak_memory(lambda: x.exp().sin().sum().backward(), Settings())
    assert kept >= 3 * 4 * MB  # two results that are kept, and a gradient


def row(case, description, times, memory, equal_labels=None):
    spec = TaskSpec('', '', label=f'PSP head, {case}', description=description)
    return measuring.Row(Measurement(1, times, spec), memory, equal_labels)


def test_ratios_are_to_the_stock_row_of_the_same_case():
    rows = [
        row('forward', 'stock', [4, 2, 3], 40 * MB, 100.0),
        row('forward', 'ours', [2, 1], 10 * MB, 99.5),
        row('backward', 'stock', [0.5], 0),
        row('backward', 'ours', [0.25], 0),
    ]
    printed = table_as_text(measuring.tabulate(rows, markdown=True), width=1000).splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip('|').split('|')] for line in printed]
    assert [line[:2] for line in cells] == [
        [f'PSP head, {case}', variant]
        for case in ('forward', 'backward')
        for variant in ('stock', 'ours')
    ]
    assert [line[2:] for line in cells] == [
        ['3.00 s', '2.00 s to 4.00 s', '', '40 MB', '', '100.0000 %'],
        ['1.50 s', '1.00 s to 2.00 s', '2.00 x as fast', '10 MB', '0.25 x', '99.5000 %'],
        ['500 ms', '500 ms to 500 ms', '', '', '', ''],
        ['250 ms', '250 ms to 250 ms', '2.00 x as fast', '', '', ''],
    ]
