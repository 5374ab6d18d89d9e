"""Files are whole or not there, and held by one process, also where two write the same one."""

import os
import signal

import pytest

from pspnet_plugin.utils.files import held_alone, write_whole
from tests.helpers.processes import start_python


def test_two_that_write_the_same_file_do_not_disturb_each_other(tmp_path):
    path = tmp_path / 'file'
    with write_whole(path, 'w') as first, write_whole(path, 'w') as second:
        first.write('first')
        second.write('second')
    assert path.read_text() == 'first'  # it ended last
    assert os.listdir(tmp_path) == ['file']


@pytest.mark.parametrize('name', ['a' * 255, '图' * 85, os.fsdecode(b'\xff' * 255)])
def test_name_may_be_as_long_as_names_can_be(tmp_path, name):
    with write_whole(tmp_path / name, 'w') as file:
        file.write('whole')
    assert os.listdir(tmp_path) == [name]


HOLDER = r"""
import os, sys, time
from pspnet_plugin.utils.files import held_alone
held = held_alone(sys.argv[1])
os.write(1, b'%d\n' % os.fork())  # a worker, which outlives its parent
time.sleep(600)
"""


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='no fork')
def test_a_killed_process_holds_nothing_although_its_worker_lives(tmp_path):
    path = tmp_path / 'lock'
    holder = start_python('-c', HOLDER, path)
    told = (line for line in holder.stdout if line.strip().isdecimal())  # besides warnings
    worker = max(int(next(told)), int(next(told)))
    try:
        assert held_alone(path) is None
        holder.kill()
        holder.wait()
        os.kill(worker, 0)  # raises where there is no such process
        with held_alone(path) as file:
            assert file is not None
    finally:
        os.kill(worker, signal.SIGKILL)
