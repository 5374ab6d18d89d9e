"""What a run's last checkpoint holds, compared bit for bit."""

from __future__ import annotations

from pathlib import Path

import torch


def last_state(work_dir: str | Path) -> dict:
    """All that the last checkpoint holds of a run's state, but for its own record of the run."""
    last = Path(work_dir, 'last_checkpoint').read_text()
    saved = torch.load(last, weights_only=False)
    keys = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')
    return {'iter': saved['meta']['iter'], **{key: saved[key] for key in keys if key in saved}}


def assert_same(one, other, where=''):
    """The same values of the same types, whose place is named where they differ."""
    assert type(one) is type(other), where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f'{where}.{key}')
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, (left, right) in enumerate(zip(one, other)):
            assert_same(left, right, f'{where}[{number}]')
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    else:
        assert one == other, where
