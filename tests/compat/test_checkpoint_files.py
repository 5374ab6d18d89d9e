"""The last whole checkpoint survives whatever happens while the next one is written."""

from __future__ import annotations

import contextlib
import os
import resource
from unittest import mock

import pytest
import torch
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook

from pspnet_plugin.errors import PspnetPluginError
from pspnet_plugin.utils.files import write_whole
from tests.helpers.freezing_runs import make_runner

KEEP_ONE = {'type': 'CheckpointHook', 'interval': 1, 'by_epoch': False, 'max_keep_ckpts': 1}


@contextlib.contextmanager
def full_disk():
    """Within this context there is room for half of each file."""
    put = LocalBackend.put

    def put_half(self, obj, filepath):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(obj) // 2, hard))
        try:
            put(self, obj, filepath)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    with mock.patch.object(LocalBackend, 'put', put_half):
        yield


def run(work_dir, max_iters=2, **settings):
    runner = make_runner(
        work_dir, max_iters=max_iters, default_hooks={'checkpoint': KEEP_ONE}, **settings
    )
    runner.train()
    return runner


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_file() and path.suffix != '.py')


def test_a_full_disk_is_one_error_and_the_last_whole_checkpoint_can_be_resumed(tmp_path):
    run(tmp_path)
    last = tmp_path / 'iter_2.pth'
    message = f'at iteration 2: .*{last} is whole'
    with full_disk(), pytest.raises(PspnetPluginError, match=message):
        run(tmp_path, max_iters=4, resume=True)
    assert names(tmp_path) == ['iter_2.pth', 'last_checkpoint']
    assert (tmp_path / 'last_checkpoint').read_text() == str(last)
    assert run(tmp_path, max_iters=4, resume=True).iter == 4
    assert names(tmp_path) == ['iter_4.pth', 'last_checkpoint']


def test_the_best_checkpoint_is_removed_only_when_a_better_one_is_written(tmp_path):
    runner = make_runner(tmp_path, max_iters=1, default_hooks={
        'checkpoint': {**KEEP_ONE, 'save_best': 'acc', 'rule': 'greater'}})  # fmt: skip
    runner.train()
    hook = next(hook for hook in runner.hooks if isinstance(hook, CheckpointHook))
    hook._save_best_checkpoint(runner, {'acc': 0.1})
    runner.train_loop._iter = 2
    hook._save_best_checkpoint(runner, {'acc': 0.2})
    assert names(tmp_path) == ['best_acc_iter_2.pth', 'iter_2.pth', 'last_checkpoint']
    runner.train_loop._iter = 3
    with full_disk(), pytest.raises(PspnetPluginError):
        hook._save_best_checkpoint(runner, {'acc': 0.3})
    assert names(tmp_path) == ['best_acc_iter_2.pth', 'iter_2.pth', 'last_checkpoint']
    assert torch.load(tmp_path / 'best_acc_iter_2.pth', weights_only=False)['state_dict']


def test_a_file_that_is_rewritten_is_the_old_one_until_the_new_one_is_whole(tmp_path):
    (tmp_path / 'linked').write_text('old')
    os.symlink('linked', tmp_path / 'link')
    with write_whole(tmp_path / 'link', 'w') as file:
        file.write('new')
        file.flush()
        assert (tmp_path / 'link').read_text() == 'old'
    assert (tmp_path / 'linked').read_text() == 'new'
    with pytest.raises(KeyboardInterrupt), write_whole(tmp_path / 'link', 'w') as file:
        raise KeyboardInterrupt
    assert names(tmp_path) == ['link', 'linked']
    assert (tmp_path / 'link').read_text() == 'new'


def test_what_is_no_file_is_written_as_ever():
    LocalBackend().put(b'nothing', os.devnull)
    assert not os.path.isfile(os.devnull)
