"""All bands of rasters, which OpenCV reads up to four of."""

import os

import mmcv
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile

from pspnet_plugin.errors import ImageError
from pspnet_plugin.transforms import LoadRaster
from tests.helpers.folders import write_raster

SIZE = (9, 14)  # rows, columns


@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
@pytest.mark.parametrize('interleave', ['pixel', 'band'])
def test_all_bands_come_in_the_order_of_the_file(tmp_path, interleave):
    bands = np.arange(6 * 9 * 14, dtype=np.uint16).reshape(6, *SIZE) * 40
    path = write_raster(f'{tmp_path}/a.tif', bands, interleave=interleave, compress='deflate')
    found = LoadRaster()({'img_path': path})
    assert found['img'].dtype == np.float32
    assert np.array_equal(found['img'], np.moveaxis(bands, 0, -1))
    assert found['img_shape'] == found['ori_shape'] == SIZE
    assert LoadRaster(to_float32=False)({'img_path': path})['img'].dtype == np.uint16


@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
def test_three_bands_come_as_mmcv_reads_them(tmp_path):
    bands = np.random.default_rng(0).integers(0, 256, (3, *SIZE)).astype(np.uint8)
    path = write_raster(f'{tmp_path}/a.tif', bands, photometric='RGB')
    expected = LoadImageFromFile()({'img_path': path})['img']
    assert np.array_equal(expected, mmcv.imread(path))
    assert np.array_equal(LoadRaster(to_float32=False)({'img_path': path})['img'], expected)


@pytest.mark.parametrize('name', [b'text.tif', b'text\xff.tif'])  # GDAL takes UTF-8 alone
def test_what_is_no_raster_is_named(tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.write_text('no pixels')
    with pytest.raises(ImageError, match=r'text.*\.tif.*cannot be opened as a raster'):
        LoadRaster()({'img_path': str(path)})


@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
def test_what_has_no_data_gets_the_mean_of_the_image(tmp_path):
    bands = np.arange(2 * 9 * 14, dtype=np.float32).reshape(2, *SIZE)
    bands[0, 0, :] = np.nan
    bands[:, 1, 0] = -1
    path = write_raster(f'{tmp_path}/a.tif', bands, nodata=-1)
    found = LoadRaster()({'img_path': path})['img']
    expected = np.moveaxis(bands, 0, -1)
    mean = np.concatenate([expected[1, 1:], *expected[2:]]).mean(0)
    expected[0, :], expected[1, 0] = mean, mean
    np.testing.assert_allclose(found, expected)
    write_raster(path, np.full_like(bands, np.nan))
    with pytest.raises(ImageError, match=r'a\.tif: has no pixel with data'):
        LoadRaster()({'img_path': path})
