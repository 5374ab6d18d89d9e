"""What can be wrong with archives, and going on where an earlier call stopped."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from pspnet_plugin.app.commands import main
from tests.helpers.folders import contents_of
from tests.helpers.published import camvid, encoded, ksdd2, potsdam, severstal, synapse, zipped


@pytest.fixture
def prepare(tmp_path, capsys):
    def run(name, *archives):
        code = main(['prepare', name, *map(str, archives), '--out', str(tmp_path / 'data')])
        captured = capsys.readouterr()
        files = contents_of(tmp_path / 'data')
        files.pop('prepared.jsonl', None)
        return code, captured.err, files

    return run


@pytest.fixture
def archive(tmp_path):
    """A miniature of KolektorSDD2."""
    return ksdd2(tmp_path).archives[0]


def content_of(archive):
    with zipfile.ZipFile(archive) as file:
        return {name: file.read(name) for name in file.namelist()}


@pytest.mark.parametrize('compression', ['', 'gz', 'bz2', 'xz'])
def test_a_tar_archive_and_a_folder_give_what_a_zip_archive_gives(
    tmp_path, prepare, archive, compression
):
    _, _, expected = prepare('ksdd2', archive)
    assert len(expected) == 12
    folder = tmp_path / 'KolektorSDD2'
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    with tarfile.open(tmp_path / 'KolektorSDD2.tar', f'w:{compression}') as tar:
        for path in sorted(folder.rglob('*.png'), key=lambda path: '_GT' in path.name):  # apart
            tar.add(path, path.relative_to(tmp_path))
    for other in (folder, tmp_path / 'KolektorSDD2.tar'):
        shutil.rmtree(tmp_path / 'data')
        assert prepare('ksdd2', other)[2] == expected


def test_files_that_are_wrong_are_named_and_the_others_are_written(tmp_path, prepare, archive):
    files = content_of(archive)
    files['train/10000_GT.png'] = encoded(np.zeros((9, 8), np.uint8))
    files['train/10001_GT.png'] = encoded(np.full((64, 24), 7, np.uint8))
    files['train/10002.png'] = files['train/10002.png'][:-40]
    code, error, written = prepare('ksdd2', zipped(tmp_path / 'wrong.zip', files))
    assert code == 1
    assert f'train/10000_GT.png in {tmp_path}/wrong.zip: 8 x 9 pixels, but its image has' in error
    assert 'train/10001_GT.png' in error
    assert 'holds 7, which is no class' in error
    assert 'train/10002.png' in error
    assert len(written) == 6


def test_the_same_command_goes_on_where_it_stopped(tmp_path, prepare, archive):
    files = content_of(archive)
    broken = {**files, 'train/10002.png': b''}
    assert prepare('ksdd2', zipped(tmp_path / 'KolektorSDD2.zip', broken))[0] == 1
    journal = tmp_path / 'data' / 'prepared.jsonl'
    journal.write_text(journal.read_text() + '["train/100')  # killed in the middle of a line
    (tmp_path / 'data' / 'img_dir' / 'train' / '10000.png').unlink()
    kept = tmp_path / 'data' / 'img_dir' / 'train' / '10001.png'
    kept.write_bytes(b'as it was')
    code, _, written = prepare('ksdd2', zipped(tmp_path / 'KolektorSDD2.zip', files))
    assert code == 0
    assert len(written) == 12
    assert written['img_dir/train/10000.png'] == files['train/10000.png']
    assert written['img_dir/train/10002.png'] == files['train/10002.png']
    assert written['img_dir/train/10001.png'] == b'as it was'
    assert prepare('ksdd2', zipped(tmp_path / 'KolektorSDD2.zip', files))[2] == written


def test_a_full_disk_is_one_line_and_leaves_whole_files(tmp_path, prepare, archive, monkeypatch):
    _, _, expected = prepare('ksdd2', archive)
    for path in [path for path in (tmp_path / 'data').rglob('*') if path.is_file()]:
        path.unlink()
    (tmp_path / 'data' / 'prepared.jsonl').touch()
    replace = os.replace

    def full(part, path):
        if str(path).endswith('img_dir/train/10002.png'):
            raise OSError(28, 'No space left on device')
        replace(part, path)

    monkeypatch.setattr(os, 'replace', full)
    code, error, files = prepare('ksdd2', archive)
    assert code == 1
    assert error.count('\n') == 1
    assert 'No space left on device; the same command goes on from here' in error
    assert len(files) == 4
    assert files.items() <= expected.items()
    monkeypatch.undo()
    code, _, files = prepare('ksdd2', archive)
    assert (code, files) == (0, expected)


@pytest.mark.parametrize(
    ('name', 'spoil', 'told'),
    [
        *[
            (
                'ksdd2',
                lambda archive, path=path: zipped(archive, {**content_of(archive), path: b''}),
                f'holds {path}, a path outside of the archive',
            )
            for path in ('../train/10009.png', '/train/10009.png', 'a/../../b.png')
        ],
        ('ksdd2', lambda archive: archive.unlink(), 'no such file'),
        ('ksdd2', lambda archive: archive.write_bytes(b'text'), 'is neither a zip nor a tar'),
        ('ksdd2', lambda archive: archive.write_bytes(archive.read_bytes()[:-100]), 'a zip nor'),
        ('potsdam', lambda _: None, 'no images with labels of ISPRS Potsdam in it; name 2_Ortho'),
    ],
)
def test_an_archive_that_cannot_be_used_is_named(prepare, archive, name, spoil, told):
    spoil(archive)
    code, error, written = prepare(name, archive)
    assert (code, error.count('\n'), written) == (1, 1, {})
    assert error.startswith(f'error: {archive}: ')
    assert told in error


def test_label_colours_that_were_stored_with_losses_are_read_as_they_were_meant(tmp_path, prepare):
    (images, labels), _ = potsdam(tmp_path)
    _, _, expected = prepare('potsdam', images, labels)
    files = content_of(labels)
    for name, content in files.items():
        with Image.open(io.BytesIO(content)) as image:
            colours = np.asarray(image).astype(int)
        noise = np.random.default_rng(0).integers(0, 40, colours.shape)
        files[name] = encoded(np.abs(colours - noise).astype(np.uint8), 'TIFF')
    shutil.rmtree(tmp_path / 'data')
    assert prepare('potsdam', images, zipped(tmp_path / 'lossy.zip', files))[2] == expected


def test_a_colour_that_is_no_class_is_named(tmp_path, prepare):
    (images, labels), _ = camvid(tmp_path)
    files = content_of(labels)
    files['0016E5_07959_L.png'] = encoded(np.full((48, 64, 3), (1, 2, 3), np.uint8))
    code, error, written = prepare('camvid', images, zipped(tmp_path / 'wrong.zip', files))
    assert code == 1
    assert '0016E5_07959_L.png in' in error
    assert 'holds (1, 2, 3), which is no class' in error
    assert len(written) == 14


@pytest.mark.parametrize('runs', ['1 5 7', '0 3', '3071 9', '1 x'])
def test_run_lengths_that_leave_the_image_are_named(tmp_path, prepare, runs):
    (archive,), _ = severstal(tmp_path)
    files = content_of(archive)
    files['train.csv'] += f'\n000000003.jpg,4,{runs}'.encode()
    code, error, written = prepare('severstal', zipped(tmp_path / 'wrong.zip', files))
    assert code == 1
    assert '000000003.jpg, class 4: ' in error
    assert len(written) == 22
    assert not any('000000003' in name for name in written)


def test_the_first_form_of_the_table_of_run_lengths_is_read_too(tmp_path, prepare):
    (archive,), _ = severstal(tmp_path)
    _, _, expected = prepare('severstal', archive)
    files = content_of(archive)
    lines = files['train.csv'].decode().splitlines()[1:]
    joined = [f'{image}_{kind},{runs}' for image, kind, runs in (line.split(',') for line in lines)]
    joined.append('000000000.jpg_1,')  # classes that an image does not have had lines as well
    files['train.csv'] = '\n'.join(['ImageId_ClassId,EncodedPixels', *joined]).encode()
    shutil.rmtree(tmp_path / 'data')
    assert prepare('severstal', zipped(tmp_path / 'first.zip', files))[2] == expected


@pytest.mark.parametrize(
    ('spoil', 'told'),
    [
        (lambda table: table.splitlines()[0], 'has no run lengths of these images'),
        (lambda table: table.replace(b'00', b'99'), 'has no run lengths of these images'),
        (lambda table: b'', 'has no run lengths of these images'),
        (lambda table: table.decode().encode('utf-16'), 'is no table in UTF-8'),
        (lambda table: table + b'\n\xe9,1,1 2', 'is no table in UTF-8'),
        (lambda table: table + b'\n"' + b'1 2 ' * 40000, 'is no table in UTF-8 (field larger'),
        (lambda table: table + b'\n' + table.splitlines()[1], 'line 34 repeats class'),
        (lambda table: table.replace(b',', b';'), 'line 2 is not ImageId,ClassId,EncodedPixels'),
    ],
)
def test_a_table_of_run_lengths_that_cannot_be_read_is_no_background(
    tmp_path, prepare, spoil, told
):
    (archive,), _ = severstal(tmp_path)
    files = content_of(archive)
    files['train.csv'] = spoil(files['train.csv'])
    code, error, written = prepare('severstal', zipped(tmp_path / 'wrong.zip', files))
    assert (code, error.count('\n'), written) == (1, 1, {})
    assert f'train.csv in {tmp_path}/wrong.zip: {told}' in error


@pytest.mark.parametrize('seed', range(30))
def test_a_broken_header_of_a_volume_is_one_line(tmp_path, prepare, seed):
    (archive,), _ = synapse(tmp_path)
    files = content_of(archive)
    name = 'RawData/Training/img/img0005.nii.gz'
    content = bytearray(gzip.decompress(files[name]))
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, 352, 1 + seed % 6):
        content[place] = rng.integers(0, 256)
    files[name] = gzip.compress(bytes(content))
    code, error, written = prepare('synapse', zipped(tmp_path / 'wrong.zip', files))
    assert len(written) >= 6  # those of the other volume
    if code:
        (line,) = [line for line in error.splitlines() if 'warning: ' not in line]
        assert name in line


def test_what_is_far_larger_than_any_published_file_is_refused(tmp_path, prepare, monkeypatch):
    monkeypatch.setattr('pspnet_plugin.app.published.archive.LARGEST', 1 << 20)
    (archive,), _ = synapse(tmp_path)
    files = content_of(archive)
    name = 'RawData/Training/img/img0005.nii.gz'
    files[name] = gzip.compress(bytes(1 << 21))
    files['RawData/Training/label/label0001.nii.gz'] = bytes(1 << 21)
    code, error, written = prepare('synapse', zipped(tmp_path / 'large.zip', files))
    assert (code, written) == (1, {})
    assert error.count('has more than 1 MB; it is not what was published') == 2


@pytest.mark.parametrize('there', ['img_dir/train/10000.png', 'ann_dir/notes.txt'])
def test_a_folder_with_images_that_were_not_made_here_is_left_alone(
    tmp_path, prepare, archive, there
):
    path = tmp_path / 'data' / there
    path.parent.mkdir(parents=True)
    path.write_text('by hand')
    code, error, written = prepare('ksdd2', archive)
    assert (code, written) == (1, {there: b'by hand'})
    assert f'{path.parents[-len(tmp_path.parts) - 1]}' in error
    assert 'is there already, and not from here; name another --out' in error


def test_two_datasets_do_not_become_one(tmp_path, prepare, archive):
    _, _, before = prepare('ksdd2', archive)
    code, error, written = prepare('camvid', *camvid(tmp_path).archives)
    assert (code, written) == (1, before)
    assert 'data: was prepared for KolektorSDD2, not CamVid; name another --out' in error
    assert prepare('ksdd2', archive)[0] == 0


def test_nothing_is_written_into_a_folder_that_is_read(tmp_path, prepare, archive):
    folder = tmp_path / 'data'
    with zipfile.ZipFile(archive) as file:
        file.extractall(folder)
    before = sorted(folder.rglob('*'))
    for archives in (folder, tmp_path):
        code, error, _ = prepare('ksdd2', archives)
        assert code == 1
        assert f'{folder}: lies in {archives}, which is read; name another --out' in error
    assert sorted(folder.rglob('*')) == before
