"""Files are whole or not there, also where two processes write the same one."""

import os

import pytest

from pspnet_plugin.utils.files import write_whole


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
