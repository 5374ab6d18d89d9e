"""Whole files are predicted whatever one decoder says, and cut ones are named."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from pspnet_plugin.app.images.reading import decode, require_whole
from pspnet_plugin.app.images.videos import require_whole_video
from pspnet_plugin.errors import ImageError
from pspnet_plugin.utils.rasters import read_raster
from tests.helpers.folders import image_of, mask_of, write_raster

pytestmark = pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')


def box(kind, content, length=None):
    return ((length or len(content) + 8).to_bytes(4, 'big')) + kind + content


FRAGMENTED = box(b'ftyp', b'isom') + box(b'moov', bytes(50)) + box(b'moof', bytes(30))


@pytest.mark.parametrize(
    ('content', 'counted'),
    [
        (FRAGMENTED + box(b'mdat', bytes(500)), False),
        (box(b'ftyp', b'isom') + box(b'mdat', bytes(500)) + box(b'moov', bytes(50)), True),
        (
            box(b'ftyp', b'isom') + box(b'moov', bytes(50)) + b'\0\0\0\1mdat' + bytes(7) + b'\x99',
            True,
        ),
        (b'RIFF' + (300).to_bytes(4, 'little') + bytes(300), True),
        (b'\x1a\x45\xdf\xa3\x84' + bytes(4) + b'\x18\x53\x80\x67\x42\x00' + bytes(512), False),
    ],
    ids=['fragments', 'mp4', 'large mp4', 'avi', 'mkv'],
)
def test_a_video_is_cut_where_its_container_says_that_it_is_longer(tmp_path, content, counted):
    path = tmp_path / 'film'
    if b'\x99' in content:
        content += bytes(0x99 - 16)
    path.write_bytes(content)
    assert require_whole_video(str(path)) == counted
    for size in (len(content) - 1, len(content) - 100):
        path.write_bytes(content[:size])
        with pytest.raises(ImageError, match='film: is cut'):
            require_whole_video(str(path))


def test_matroska_is_whole_whatever_number_of_frames_it_promises(tmp_path):
    path = tmp_path / 'film.mkv'
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 10, (64, 48))
    for number in range(12):
        writer.write(image_of(mask_of(number, size=(48, 64)), number))
    writer.release()
    content = path.read_bytes()
    assert cv2.VideoCapture(str(path)).isOpened()
    assert not require_whole_video(str(path))
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ImageError, match='is cut'):
        require_whole_video(str(path))


@pytest.mark.parametrize('dtype', ['uint8', 'uint16'])
@pytest.mark.parametrize('compress', [None, 'lzw', 'deflate'])
@pytest.mark.parametrize('interleave', ['pixel', 'band'])
def test_tiff_files_are_whole_whatever_pillow_knows_of_them(tmp_path, dtype, compress, interleave):
    pixels = np.moveaxis(image_of(mask_of(1), 1, dtype=dtype), -1, 0)
    options = {'interleave': interleave, 'photometric': 'RGB'}
    if compress is not None:
        options['compress'] = compress
    path = write_raster(tmp_path / 'a.tif', pixels, **options)
    content = path.read_bytes()
    require_whole(content, 'a.tif')
    found, _ = read_raster(str(path))
    np.testing.assert_array_equal(found, np.moveaxis(pixels[::-1], 0, -1))
    if dtype == 'uint16' and interleave == 'band':
        with pytest.raises(ImageError, match='bands apart, which OpenCV mixes up: use LoadRaster'):
            decode(content, 'a.tif', 'unchanged')
    else:
        np.testing.assert_array_equal(decode(content, 'a.tif', 'unchanged'), found)
    for size in (100, len(content) // 2, len(content) - 1):
        with pytest.raises(ImageError, match='is cut or broken'):
            require_whole(content[:size], 'a.tif')


@pytest.mark.parametrize(
    ('bands', 'dtype', 'photometric', 'color_type', 'backend', 'told'),
    [
        (3, 'uint8', 'MINISBLACK', 'color', 'cv2', 'OpenCV reads the first alone'),
        (4, 'uint16', 'MINISBLACK', 'unchanged', 'cv2', 'OpenCV reads the first alone'),
        (1, 'float32', 'MINISBLACK', 'color', 'cv2', 'its values are no 8 bits'),
        (1, 'float32', 'MINISBLACK', 'grayscale', 'cv2', 'its values are no 8 bits'),
        (3, 'uint8', 'RGB', 'color', 'tifffile', 'cannot be decoded'),
    ],
)
def test_what_a_decoder_would_leave_out_is_an_error(
    tmp_path, monkeypatch, bands, dtype, photometric, color_type, backend, told
):
    pixels = np.moveaxis(image_of(mask_of(1), 1, 4), -1, 0)[:bands].astype(dtype)
    path = write_raster(tmp_path / 'a.tif', pixels, photometric=photometric)
    monkeypatch.setattr('mmcv.image.io.tifffile', None)  # as where it is not installed
    with pytest.raises(ImageError, match=told):
        decode(path.read_bytes(), 'a.tif', color_type, backend)


def test_what_is_broken_within_a_tiff_is_named_though_opencv_reads_something(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 40, (3, 200, 300)).astype(np.uint8)
    path = write_raster(tmp_path / 'a.tif', pixels, compress='lzw', photometric='RGB')
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 40] = bytes(range(40))
    with pytest.raises(ImageError, match='is cut or broken'):
        decode(bytes(content), 'a.tif')


@pytest.mark.parametrize('dtype', ['uint8', 'uint16'])
def test_jpeg_2000_is_whole_where_gdal_reads_it_though_pillow_does_not(tmp_path, dtype):
    pixels = np.moveaxis(image_of(mask_of(1), 1, dtype=dtype), -1, 0)
    lossless = {'driver': 'JP2OpenJPEG', 'QUALITY': '100', 'REVERSIBLE': 'YES'}
    path = write_raster(tmp_path / 'a.jp2', pixels, **lossless)
    content = path.read_bytes()
    require_whole(content, 'a.jp2')
    with pytest.raises(ImageError, match='is cut or broken'):
        require_whole(content[: len(content) // 2], 'a.jp2')
