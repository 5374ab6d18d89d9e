"""One image that cannot be predicted is named, and the others are predicted, whatever is wrong."""

import os
import zlib

import cv2
import numpy as np
import pytest
import rasterio
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, putchunk

from pspnet_plugin.app.prediction import predict
from pspnet_plugin.app.prediction.folder import predict_folder
from pspnet_plugin.app.prediction.predictor import PredictOptions
from pspnet_plugin.app.prediction.results import Prediction
from pspnet_plugin.errors import PredictionError
from tests.helpers.folders import write_raster
from tests.helpers.limits import file_size_limit
from tests.helpers.prediction import photo, write_photo


def white(height, width):
    return np.full((height, width, 3), 255, np.uint8)


def scene(path):
    bands = np.random.default_rng(0).integers(0, 256, (3, 300, 300), dtype=np.uint8)
    return write_raster(path, bands, transform=rasterio.transform.from_origin(0, 0, 1, 1))


def film(path):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 10, (160, 120))
    for seed in range(4):
        writer.write(photo(120, 160, seed))
    writer.release()
    return path


@pytest.fixture
def images(tmp_path):
    """A folder of good images, and of bad ones that are white."""
    for name in ('a', 'c'):
        write_photo(tmp_path / 'images' / f'{name}.png', 40, 60)
    Image.fromarray(white(40, 60)).save(tmp_path / 'images' / 'b.png')
    return tmp_path / 'images'


def fails_on_white(monkeypatch, owner, name, error):
    """Let a method fail for white images."""
    stock = getattr(owner, name)

    def failing(self_or_data, *args, **kwargs):
        data = self_or_data if isinstance(self_or_data, dict) else self_or_data.image
        pixels = data['inputs'] if isinstance(data, dict) else [data]
        if any(np.asarray(image).min() == 255 for image in pixels):
            raise error
        return stock(self_or_data, *args, **kwargs)

    monkeypatch.setattr(owner, name, failing)


ERRORS = [
    TypeError('expected Tensor'),
    KeyError('a'),
    MemoryError(),
    RuntimeError('of two\nlines'),
    np.linalg.LinAlgError('singular'),
]


@pytest.mark.parametrize('error', ERRORS, ids=repr)
@pytest.mark.parametrize('place', ['network', 'writer'])
@pytest.mark.parametrize('batch', [1, 2])
def test_any_error_for_one_image_is_its_own(
    plain_model, images, tmp_path, monkeypatch, error, place, batch
):
    if place == 'network':
        fails_on_white(monkeypatch, plain_model, 'test_step', error)
    else:
        fails_on_white(monkeypatch, Prediction, 'overlay', error)
    for _ in range(2):  # the second run does not end at it either
        summary = predict_folder(plain_model, images, tmp_path / 'out', PredictOptions(batch))
        assert summary.predicted == 2
        (failure,) = summary.failures
        assert failure.name == str(images / 'b.png')
        assert type(error).__name__ in failure.reason
        assert '\n' not in str(failure)
        rows = (tmp_path / 'out' / 'shares.csv').read_text().splitlines()[1:]
        assert [os.path.basename(row.split(',')[0]) for row in rows] == ['a.png', 'c.png']
        assert len(list((tmp_path / 'out').rglob('b.*'))) == 0


def test_any_error_for_one_raster_is_its_own(plain_model, tmp_path, monkeypatch):
    (tmp_path / 'images').mkdir()
    for name, pixels in {'a': photo(40, 60), 'b': white(40, 60), 'c': photo(40, 60)}.items():
        bands, place = np.moveaxis(pixels, 2, 0), rasterio.transform.from_origin(0, 0, 1, 1)
        write_raster(tmp_path / 'images' / f'{name}.tif', bands, transform=place)
    fails_on_white(monkeypatch, plain_model, 'test_step', RuntimeError('out of memory'))
    options = PredictOptions(window=64)
    summary = predict_folder(plain_model, tmp_path / 'images', tmp_path / 'out', options)
    assert summary.predicted == 2
    assert 'b.tif: cannot be predicted (RuntimeError: out of memory).' in str(summary.failures[0])
    assert sorted(os.listdir(tmp_path / 'out' / 'labels')) == ['a.tif', 'c.tif']


@pytest.mark.parametrize('name', ['a' * 246, 'a' * 250, '图' * 83, os.fsdecode(b'\xfe' * 249)])
@pytest.mark.parametrize('suffix', ['.png', '.jpg'])
def test_long_names_are_names(plain_model, tmp_path, name, suffix):
    path = write_photo(tmp_path / f'{name}{suffix}', 40, 60)
    assert predict_folder(plain_model, path, tmp_path / 'out') == (1, ())
    assert os.listdir(tmp_path / 'out' / 'labels') == [f'{name}.png']


def test_names_that_are_too_long_for_the_results_are_named(plain_model, tmp_path):
    for suffix in ('png', 'bmp'):  # of both the suffix stays
        write_photo(tmp_path / 'images' / f'{"a" * 250}.{suffix}', 40, 60)
    good = write_photo(tmp_path / 'images' / 'b.png', 40, 60)
    summary = predict_folder(plain_model, tmp_path / 'images', tmp_path / 'out')
    assert summary.predicted == 1
    assert all('File name too long' in failure.reason for failure in summary.failures)
    assert good in (tmp_path / 'out' / 'shares.csv').read_text()


def test_folder_in_the_place_of_a_result_concerns_one_image(plain_model, images, tmp_path):
    (tmp_path / 'out' / 'labels' / 'b.png').mkdir(parents=True)
    summary = predict_folder(plain_model, images, tmp_path / 'out')
    assert summary.predicted == 2
    assert [failure.name for failure in summary.failures] == [str(images / 'b.png')]


@pytest.mark.parametrize('size', [(3, 66000), (66000, 2)])
def test_side_that_jpeg_has_no_room_for_is_predicted(plain_model, tmp_path, size):
    path = write_photo(tmp_path / 'line.png', *size)
    assert predict_folder(plain_model, path, tmp_path / 'out') == (1, ())
    with Image.open(tmp_path / 'out' / 'labels' / 'line.png') as labels:
        (found,) = predict(plain_model, path)
        assert np.array_equal(np.asarray(labels), found.label_map)
    with Image.open(tmp_path / 'out' / 'overlays' / 'line.jpg') as overlay:
        assert max(overlay.size) == 65500


def test_decompression_bomb_is_named_before_it_is_decoded(plain_model, tmp_path, monkeypatch):
    side = 20000
    write_photo(tmp_path / 'images' / 'a.png', 40, 60)
    with open(tmp_path / 'images' / 'bomb.png', 'wb') as file:
        file.write(b'\x89PNG\r\n\x1a\n')
        header = np.array([side, side], '>u4').tobytes() + bytes([1, 0, 0, 0, 0])
        putchunk(file, b'IHDR', header)
        putchunk(file, b'IDAT', zlib.compress(bytes((1 + side // 8) * side), 1))
        putchunk(file, b'IEND', b'')
    monkeypatch.setattr('mmcv.imfrombytes', lambda *args, **kwargs: photo(40, 60))
    monkeypatch.setattr(PngImageFile, 'load', None)
    summary = predict_folder(plain_model, tmp_path / 'images', tmp_path / 'out')
    assert summary.predicted == 1
    assert 'bomb.png: is a file of 0.2 MB that claims' in str(summary.failures[0])


@pytest.mark.parametrize('folder', ['films', os.fsdecode(b'films \xfc')])
def test_video_whose_name_is_no_utf8_is_named(plain_model, tmp_path, folder):
    (tmp_path / folder).mkdir()
    path = film(tmp_path / 'film.avi').rename(tmp_path / folder / os.fsdecode(b'\xff.avi'))
    (failure,) = predict_folder(plain_model, path, tmp_path / 'out').failures
    assert 'is not UTF-8, which videos need. Rename it.' in failure.reason


# --- written is read back -----------------------------------------------------------------------


@pytest.mark.parametrize('share', [0.5, 0.9, 0.99])
@pytest.mark.parametrize(
    ('make', 'source', 'result'),
    [(scene, 'a.tif', 'labels/a.tif'), (film, 'a.avi', 'overlays/a.mp4')],
)
def test_what_the_disk_has_no_room_for_gets_no_name(
    plain_model, tmp_path, make, source, result, share
):
    path, options = make(tmp_path / source), PredictOptions(window=200)
    assert predict_folder(plain_model, path, tmp_path / 'enough', options) == (1, ())
    whole = (tmp_path / 'enough' / result).read_bytes()
    out = tmp_path / 'out'
    limit = file_size_limit(int(share * len(whole)))
    with limit, pytest.raises(PredictionError, match='cannot be written'):
        predict_folder(plain_model, path, out, options)
    assert os.listdir((out / result).parent) == []
    assert predict_folder(plain_model, path, out, options) == (1, ())
    assert (out / result).read_bytes() == whole
