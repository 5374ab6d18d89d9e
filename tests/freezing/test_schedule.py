"""The state at an iteration is a pure function of the config and the iteration."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pspnet_plugin.freezing import ScheduleError
from pspnet_plugin.freezing.plan import plan, stage_lr_mults
from pspnet_plugin.freezing.schedule import Rule, RunLength, Timeline, lr_factor
from pspnet_plugin.freezing.selection import select
from tests.helpers.freezing_runs import Net

STAGES = ('backbone.stem', 'backbone.layer1', 'backbone.layer2', 'backbone.layer3')
names = st.frozensets(st.sampled_from('abcd'), max_size=4)
rules = st.lists(
    st.builds(
        Rule,
        at=st.integers(0, 20),
        unfreeze=names,
        freeze=names,
        lr_mult=st.floats(0.01, 10),
        warmup=st.integers(0, 5),
    ),
    max_size=5,
)


def factor_of(timeline, name, iteration):
    return lr_factor(timeline.lr_history(name), iteration)


def frozen_stages(timeline, iteration):
    frozen = timeline.frozen(iteration)
    return [stage for stage in STAGES if f'{stage}.0.weight' in frozen]


@given(rules, st.sampled_from('abcd'), st.integers(0, 26))
def test_a_history_gives_the_factor_of_the_last_rule_that_unfreezes(some, name, iteration):
    timeline = Timeline(tuple(sorted(some, key=lambda rule: rule.at)), stage_lr_mults={'b': 0.5})
    unfreezing = [r for r in timeline.rules if r.at <= iteration and name in r.unfreeze]
    factor = 1.0
    for rule in unfreezing[-1:]:
        steps = min(iteration - rule.at, rule.warmup) + 1
        factor = rule.lr_mult * steps / (rule.warmup + 1)
    factor *= 0.5 if name == 'b' else 1
    assert factor_of(timeline, name, iteration) == pytest.approx(factor, rel=1e-12)


@given(st.floats(0.01, 10), st.integers(0, 10), st.integers(0, 10))
def test_a_warm_up_rises_in_equal_steps_to_the_factor(lr_mult, warmup, at):
    rule = Rule(at=at, unfreeze=frozenset('a'), lr_mult=lr_mult, warmup=warmup)
    factors = [factor_of(Timeline((rule,)), 'a', at + k) for k in range(warmup + 8)]
    steps = [b - a for a, b in zip([0.0, *factors], factors[: warmup + 1])]
    assert steps == pytest.approx([lr_mult / (warmup + 1)] * (warmup + 1))
    assert set(factors[warmup:]) == {lr_mult}


def test_the_last_line_that_names_something_decides():
    length = RunLength(100, 10)
    schedule = [
        {'at': 20, 'unfreeze': ['backbone.layer[23]'], 'lr_mult': 0.1},
        {'at': 10, 'unfreeze': ['backbone.layer3'], 'lr_mult': 0.5},
        {'at': 20, 'freeze': ['backbone.layer2']},
        {'at': 30, 'unfreeze': ['backbone'], 'freeze': ['backbone.stem']},
    ]
    timeline = plan(Net(), length, freeze='backbone', schedule=schedule)
    assert frozen_stages(timeline, 9) == list(STAGES)
    assert frozen_stages(timeline, 10) == list(STAGES[:3])
    assert factor_of(timeline, 'backbone.layer3.0.weight', 19) == 0.5
    assert factor_of(timeline, 'backbone.layer3.0.weight', 20) == 0.1
    assert frozen_stages(timeline, 29) == list(STAGES[:3])
    assert frozen_stages(timeline, 30) == ['backbone.stem']
    assert factor_of(timeline, 'backbone.layer3.0.weight', 30) == 1.0


@pytest.mark.parametrize(
    ('moment', 'by_epoch', 'iteration'),
    [(7, False, 7), (3, True, 30), (0.25, False, 25), (0.25, True, 20), (1.0, False, 100)],
)
def test_moments_in_iterations(moment, by_epoch, iteration):
    assert RunLength(100, 10, by_epoch).iterations(moment) == iteration


def test_gradual_unfreezing_goes_from_the_last_stage_to_the_stem():
    schedule = {'type': 'gradual_unfreeze', 'begin': 0.1, 'end': 0.7, 'lr_mult': 0.5, 'warmup': 4}
    timeline = plan(Net(), RunLength(100, 1), schedule=schedule)
    assert timeline.transitions() == [0, 10, 30, 50, 70]
    frozen = [len(frozen_stages(timeline, t)) for t in (0, 9, 10, 29, 30, 50, 69, 70, 99)]
    assert frozen == [4, 4, 3, 3, 2, 1, 1, 0, 0]
    assert factor_of(timeline, 'backbone.layer3.0.weight', 10) == pytest.approx(0.1)
    assert factor_of(timeline, 'backbone.layer3.0.weight', 30) == 0.5
    assert factor_of(timeline, 'head.weight', 30) == 1.0


def test_gradual_unfreezing_counts_epochs():
    schedule = {'type': 'gradual_unfreeze', 'begin': 1, 'end': 7}
    timeline = plan(Net(), RunLength(100, 10, by_epoch=True), schedule=schedule)
    assert timeline.transitions() == [0, 10, 30, 50, 70]


def test_probing_then_fine_tuning():
    schedule = {'type': 'probe_then_finetune', 'at': 0.5, 'lr_mult': 0.2}
    timeline = plan(Net(), RunLength(100, 1), schedule=schedule)
    assert frozen_stages(timeline, 49) == list(STAGES)
    assert frozen_stages(timeline, 50) == []
    assert factor_of(timeline, 'backbone.stem.0.weight', 50) == 0.2


def test_an_unknown_argument_of_a_preset_is_refused():
    with pytest.raises(ScheduleError, match='begin, end'):
        plan(Net(), RunLength(9, 1), schedule={'type': 'gradual_unfreeze', 'start': 1})
    with pytest.raises(ScheduleError, match='after its end'):
        plan(Net(), RunLength(9, 1), schedule={'type': 'gradual_unfreeze', 'begin': 5, 'end': 2})


def test_stage_lr_mults_fall_from_the_last_stage_to_the_stem():
    net = Net()
    lr_mults = stage_lr_mults(net, 0.5)
    assert {lr_mults[f'{stage}.0.weight'] for stage in STAGES} == {0.5, 0.25, 0.125, 0.0625}
    assert lr_mults['backbone.layer3.0.weight'] == 0.5
    assert lr_mults['backbone.stem.0.weight'] == 0.0625
    assert set(lr_mults) == select(net, ['backbone'])
    assert stage_lr_mults(net, {'backbone': 0.5}) == lr_mults
