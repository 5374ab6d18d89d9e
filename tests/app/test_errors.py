"""How many problems of files are told."""

import pytest

from pspnet_plugin.app.errors import DataError, refuse

SAME = [f'masks/{number}.png: is empty: write it again' for number in range(6)]
OTHER = ['masks/a.png: 3 x 4 pixels', 'masks/b.png: 4 x 3 pixels', 'the masks hold one class only']


@pytest.mark.parametrize('loader', ['', 'val_dataloader: '])
def test_what_many_files_have_in_common_is_one_line_with_the_first_names_and_their_number(loader):
    with pytest.raises(DataError) as raised:
        refuse([f'{loader}{line}' for line in (OTHER[0], *SAME, *OTHER[1:])])
    also = f'{loader}masks/1.png, {loader}masks/2.png and 3 more'
    expected = [OTHER[0], f'{SAME[0]} (also {also})', *OTHER[1:]]
    lines = [line.strip() for line in str(raised.value).splitlines()]
    assert lines == [f'{loader}{line}' for line in expected]


def test_what_a_few_have_in_common_is_a_line_for_each():
    with pytest.raises(DataError) as raised:
        refuse(SAME[:3])
    assert [line.strip() for line in str(raised.value).splitlines()] == SAME[:3]
