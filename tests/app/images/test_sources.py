"""What folders and globs name: each file once, by whatever links."""

import os
from pathlib import Path

import pytest

from pspnet_plugin.app.images.sources import sources_of
from pspnet_plugin.errors import PredictionError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Folders with links to others, to one outside of them, and in circles."""
    for place in ('photos/a/1.png', 'photos/b/2.png', 'photos/.hidden/3.png', 'disk/c/4.png'):
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b'')
    links = {
        'photos/a/loop': '..',
        'photos/above': '../..',
        'photos/again': 'b',
        'photos/other': '../disk',
        'disk/c/photos': '../../photos',
    }
    for place, target in links.items():
        (tmp_path / place).symlink_to(target)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ('images', 'names'),
    [
        ('photos', ['photos/a/1.png', 'photos/b/2.png', 'photos/other/c/4.png']),
        ('photos/**/*.png', ['photos/a/1.png', 'photos/b/2.png', 'photos/other/c/4.png']),
        ('photos/**', ['photos/a/1.png', 'photos/b/2.png', 'photos/other/c/4.png']),
        ('**/b/**/*.png', ['photos/b/2.png']),
        ('ph*/**/b/*.png', ['photos/b/2.png']),
        ('photos/*/*.png', ['photos/a/1.png', 'photos/again/2.png', 'photos/b/2.png']),
        ('disk', ['disk/c/4.png', 'disk/c/photos/a/1.png', 'disk/c/photos/b/2.png']),
        ('photos/again', ['photos/again/2.png']),
    ],
)
def test_each_image_is_named_once_also_where_links_lead_in_circles(tree, images, names):
    assert [source.name for source in sources_of(images)] == names


def test_image_of_a_link_that_leads_nowhere_is_not_left_out(tree):
    Path('photos/b/lost.png').symlink_to('nowhere.png')
    assert 'photos/b/lost.png' in [source.name for source in sources_of('photos')]


def test_folder_that_cannot_be_read_is_named(tree, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if os.fspath(path).endswith('photos/b'):
            raise PermissionError(13, 'Permission denied', os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refuse)  # root may read every folder
    with pytest.raises(PredictionError, match='photos/b cannot be read: Permission denied'):
        list(sources_of('photos'))
