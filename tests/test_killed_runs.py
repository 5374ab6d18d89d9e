"""Two of the kills that ``python -m tests.helpers.killed_runs 100`` sends."""

from __future__ import annotations

from random import Random

from tests.helpers.checkpoints import assert_same, last_state
from tests.helpers.killed_runs import ITERATIONS, killed_run, run


def test_a_run_that_is_killed_at_random_ends_bit_identical(tmp_path):
    seconds = run('moving averages', tmp_path / 'whole')
    killed_run('moving averages', tmp_path / 'killed', seconds, 2, Random(0))
    whole = last_state(tmp_path / 'whole')
    assert whole['iter'] == ITERATIONS
    assert_same(whole, last_state(tmp_path / 'killed'))
