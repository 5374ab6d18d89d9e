"""What the commands add around the stock tools."""

import sys

import pytest
from torch._utils import ExceptionWrapper

from pspnet_plugin.app.training import launch
from pspnet_plugin.compat import runner as callbacks
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
def test_stock_tool_that_has_ended_leaves_no_check_behind(name):
    before, argv = list(callbacks.before_build), list(sys.argv)
    with pytest.raises(SystemExit) as raised:
        launch.run_stock_tool(name, ['--help'])
    assert raised.value.code == 0
    assert (callbacks.before_build, callbacks.logger_built, sys.argv) == (before, [], argv)
