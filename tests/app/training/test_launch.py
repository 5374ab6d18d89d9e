"""What the commands add around the stock tools."""

import sys

import pytest
from torch._utils import ExceptionWrapper

from pspnet_plugin.app.training import launch
from pspnet_plugin.compat import runner as callbacks
from pspnet_plugin.finite_loss import StopAtNonFiniteLossHook
from pspnet_plugin.transforms.check_labels import LabelError


def test_error_from_a_data_loader_worker_is_told_without_its_traceback():
    message = 'aachen_0.png holds the label values 33: see the docs'
    try:
        raise LabelError(message)
    except LabelError:
        handed_over = ExceptionWrapper(where='in DataLoader worker process 0')
    with pytest.raises(LabelError, match='Original Traceback') as raised:
        handed_over.reraise()
    assert launch.plain_message(raised.value) == message
    assert launch.plain_message(LabelError(message)) == message


@pytest.mark.parametrize('name', ['train.py', 'test.py'])
@pytest.mark.parametrize('ended_by', [SystemExit(0), KeyboardInterrupt(), ValueError('no')])
def test_stock_tool_that_has_ended_leaves_no_check_behind(name, ended_by, monkeypatch):
    lists = ('before_build', 'logger_built', 'added_hooks')
    before, argv, during = [list(getattr(callbacks, one)) for one in lists], list(sys.argv), []

    def run(path):
        during.extend(list(getattr(callbacks, one)) for one in lists)
        raise ended_by

    monkeypatch.setattr(launch.runpy, 'run_path', run)
    with pytest.raises(type(ended_by)):
        launch.run_stock_tool(name, ['--help'])
    assert [len(now) - len(then) for now, then in zip(during, before)] == [1, 1, name == 'train.py']
    assert [list(getattr(callbacks, one)) for one in lists] == before
    assert sys.argv == argv


def test_hook_that_somebody_gave_every_run_is_still_given_after_the_command(monkeypatch):
    monkeypatch.setattr(callbacks, 'added_hooks', [StopAtNonFiniteLossHook])
    with pytest.raises(SystemExit):
        launch.run_stock_tool('train.py', ['--help'])
    assert callbacks.added_hooks == [StopAtNonFiniteLossHook]
