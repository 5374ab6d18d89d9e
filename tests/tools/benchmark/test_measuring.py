"""How the benchmark measures time, peak memory and what autograd keeps."""

import functools
import os
from types import SimpleNamespace

import pytest
import torch
from benchmark import memory, timing
from benchmark.settings import Settings
from torch import nn

from pspnet_plugin import PspnetPluginError

MB = 10**6


def test_variants_run_in_turn_and_each_time_is_its_own(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(timing, 'time', SimpleNamespace(perf_counter=lambda: clock[0]))

    def step(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds + len(order)

        return run

    steps = {'a': step('a', 100), 'b': step('b', 200), 'c': step('c', 300)}
    seconds = timing.time_alternately(steps, Settings(runs=2))
    assert ''.join(order) == 'abc' * 3
    assert seconds == {'a': [104, 107], 'b': [205, 208], 'c': [306, 309]}


def test_memory_is_kept_for_the_steps_that_are_named_only(monkeypatch):
    order = []

    def noting(name):
        return lambda: order.append(name)

    monkeypatch.setattr(timing, 'keep_freed_memory', noting('KEEP'))
    monkeypatch.setattr(timing, 'stop_keeping_freed_memory', noting('STOP'))
    steps = {name: noting(name) for name in ('stock', 'ours')}
    seconds = timing.time_alternately(steps, Settings(runs=1), keeping=('ours',))
    # After each switch a step runs once untimed.
    ours = ['KEEP', 'ours', 'ours', 'STOP']
    assert order == ['stock', *ours, 'stock', 'stock', *ours]
    assert [len(runs) for runs in seconds.values()] == [1, 1]


def allocating(size):
    """A preparation: its step allocates ``size`` bytes."""
    return lambda: torch.ones(size, dtype=torch.uint8)


def test_the_peak_counts_what_the_step_allocates():
    sizes = {'small': 20 * MB, 'large': 400 * MB}
    preparations = {name: functools.partial(allocating, size) for name, size in sizes.items()}
    (small,), (large,) = memory.peak_memory(preparations, Settings()).values()
    assert small < 200 * MB < large


def die():
    os._exit(9)


def test_a_child_that_dies_is_one_clear_error():
    with pytest.raises(PspnetPluginError, match='smaller --batch'):
        memory.peak_memory({'killed': die}, Settings())


def refuse():
    raise ValueError('a map of no pixels')


def test_an_error_in_the_child_arrives_as_it_is():
    with pytest.raises(ValueError, match='a map of no pixels'):
        memory.peak_memory({'refused': refuse}, Settings())


def test_kept_for_backward_counts_each_storage_once():
    x = torch.rand(1000, dtype=torch.float64, requires_grad=True)
    assert memory.kept_for_backward(lambda: x.sin() + x.cos()) == 8000
    assert memory.kept_for_backward(lambda: x[:10] * x[10:20]) == 8000
    assert memory.kept_for_backward(lambda: x.exp().sin()) == 8000  # exp's result, kept by both
    assert memory.kept_for_backward(lambda: x.sin().exp().sin()) == 16000
    assert memory.kept_for_backward(lambda: x + 1) == 0


def test_kept_for_backward_leaves_out_parameters_and_what_it_is_told():
    layer = nn.Linear(100, 10, dtype=torch.float64)
    x = torch.rand(7, 100, dtype=torch.float64, requires_grad=True)
    own = memory.state_of(layer)
    assert memory.kept_for_backward(lambda: layer(x)) == 8 * (7 * 100 + 100 * 10)
    assert memory.kept_for_backward(lambda: layer(x), own) == 8 * 7 * 100
    assert memory.kept_for_backward(lambda: layer(x), [*own, x]) == 0


def test_kept_for_backward_forgets_a_graph_that_the_forward_pass_dropped():
    x = torch.rand(1000, requires_grad=True)

    def forward():
        x.exp()
        return x.sin()

    assert memory.kept_for_backward(forward) == 4000
