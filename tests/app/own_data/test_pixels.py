"""Images of every kind are read in one way by init, check and training, or refused by name."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmseg.registry import DATASETS, TRANSFORMS
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rasterio.rio.main import main_group
from rasterio.transform import from_origin

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.own_data.pairs import Pair
from pspnet_plugin.app.own_data.scan import image_statistics
from tests.helpers.folders import PLACE, SIZE, image_of, make_folders, mask_of, write_raster

ORIENTATION = 0x0112
pytestmark = pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')


def init(*options):
    return main(['init', 'images', 'masks', '--out', 'mine', *options])


def check():
    return main(['check', 'mine/mine.py'])


def training_samples():
    """Image and label map of each training image by its name, as the written config loads them."""
    cfg = Config.fromfile('mine/mine.py')
    with DefaultScope.overwrite_default_scope('mmseg'):
        dataset = DATASETS.build({**cfg.train_dataloader.dataset, 'pipeline': []})
        load = Compose(cfg.train_dataloader.dataset.pipeline[:3])
        loaded = [load(dict(dataset.get_data_info(n))) for n in range(len(dataset))]
    return {Path(x['img_path']).name: (x['img'], x['gt_seg_map']) for x in loaded}


def rasters(dtype='float32', bands=4, count=5, scale=1.0, change=None, **options):
    """Write rasters and their masks; the pixels of each, (H, W, bands)."""
    make_folders(Path(), count, image_name='{}.tif', channels=1)
    written = []
    for number in range(count):
        pixels = image_of(mask_of(number), number, bands).reshape(*SIZE, bands) * scale
        pixels = pixels.astype(dtype)
        if change is not None:
            change(pixels)
        write_raster(f'images/{number}.tif', np.moveaxis(pixels, -1, 0), **options)
        written.append(pixels)
    return written


def statistics_of(path):
    return image_statistics(Pair('', Path(path), Path(path)))


@pytest.mark.parametrize('interleave', ['pixel', 'band'])
@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'int16', 'float32'])
@pytest.mark.parametrize('bands', [1, 2, 3, 4, 6])
def test_all_bands_of_a_tiff_are_counted(tmp_path, bands, dtype, interleave):
    pixels = (np.random.default_rng(0).random((bands, *SIZE)) * 200).astype(dtype)
    kinds = {'photometric': 'MINISBLACK'} if bands == 4 else {}
    path = write_raster(tmp_path / 'a.tif', pixels, interleave=interleave, **kinds)
    found = statistics_of(path)
    assert (found.size, found.channels, found.depth) == (SIZE, bands, dtype)
    order = [2, 1, 0] if bands == 3 else range(bands)
    np.testing.assert_allclose(found.total, pixels.sum((1, 2), dtype=float)[order], rtol=1e-6)
    assert found.in_colours == (dtype == 'uint8' and bands in (1, 3))


def spoil_with(value):
    def change(pixels):
        pixels[:8, :10] = value
        pixels[20, 20, 0] = value  # one band of a pixel

    return change


@pytest.mark.parametrize(
    ('value', 'dtype', 'options'),
    [
        (np.nan, 'float32', {}),
        (np.inf, 'float64', {}),
        (-9999, 'float32', {'nodata': -9999}),
        (-32768, 'int16', {'nodata': -32768}),
        (np.nan, 'float32', {'nodata': np.nan}),
    ],
)
def test_pixels_without_data_are_named_left_out_and_the_mean_in_training(
    here, capsys, value, dtype, options
):
    pixels = rasters(dtype, change=spoil_with(value), **options)
    assert init() == 0
    share = f'{81 / (SIZE[0] * SIZE[1]):.2%}'
    assert f'5 images, {share} of their pixels' in capsys.readouterr().out
    cfg = Config.fromfile('mine/mine.py')
    names = Path('mine/train.txt').read_text().split()
    kept = np.ones(SIZE, bool)
    kept[:8, :10] = kept[20, 20] = False
    values = np.concatenate([pixels[int(name)][kept] for name in names]).astype(float)
    np.testing.assert_allclose(cfg.model.data_preprocessor.mean, values.mean(0), rtol=1e-4)
    np.testing.assert_allclose(cfg.model.data_preprocessor.std, values.std(0), rtol=1e-4)
    TRANSFORMS.build({**cfg.load_image, 'type': 'LoadImageFromNDArray'})  # as mmseg does for arrays
    assert check() == 0
    assert f'5 images, {share} of their pixels' in capsys.readouterr().out
    for name, (image, _) in training_samples().items():
        assert np.array_equal(image[kept], pixels[int(Path(name).stem)][kept].astype(np.float32))
        mean = pixels[int(Path(name).stem)][kept].mean(0, dtype=float)
        np.testing.assert_allclose(image[~kept], np.tile(mean, (81, 1)), rtol=1e-4)


@pytest.mark.parametrize(
    ('value', 'dtype'),
    [(-9999, 'float32'), (-9999, 'int16'), (-32768, 'int16'), (np.finfo('f4').min, 'float32')],
)
def test_a_usual_nodata_is_to_be_declared(here, capsys, value, dtype):
    rasters(dtype, change=spoil_with(value))
    assert init() == 1
    error = capsys.readouterr().err
    assert f'images/0.tif: holds {value:.17g}, a usual nodata' in error
    declare = re.search(r'rio (edit-info --nodata=\S+) FILE', error)[1].split()
    for path in Path('images').iterdir():
        assert CliRunner().invoke(main_group, [*declare, str(path)]).exit_code == 0
    assert init() == 0
    assert f'5 images, {81 / (SIZE[0] * SIZE[1]):.2%} of their pixels' in capsys.readouterr().out


def test_the_numbers_of_a_palette_are_refused_where_training_would_read_them(here, capsys):
    make_folders(here, 5, image_name='{}.tif', channels=1)
    write_raster('images/3.tif', mask_of(3)[None], photometric='palette', nodata=255)
    assert init() == 1
    assert 'images/3.tif: holds the numbers of a palette' in capsys.readouterr().err


def test_one_image_without_any_data_is_refused_by_name(here, capsys):
    rasters(count=3)
    write_raster('images/1.tif', np.full((4, *SIZE), np.nan, np.float32))
    assert init() == 1
    assert 'images/1.tif: has no pixel with data' in capsys.readouterr().err


def test_check_names_pixels_without_data_that_would_reach_the_network(here, capsys):
    rasters(bands=1, change=spoil_with(np.nan))
    assert init() == 0
    path = Path('mine/mine.py')
    stock = "dict(type='LoadImageFromFile', color_type='unchanged', to_float32=True)"
    path.write_text(re.sub(r"dict\(type='LoadRaster'.*\)", stock, path.read_text()))
    assert check() == 1
    assert 'without data (NaN, infinite, nodata), which go to the net' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('dtype', 'scale', 'offset'),
    [('float32', 1e-4, 0), ('float32', 1e-7, 0), ('float32', 0.01, 290), ('float64', -0.1, 0)],
    ids=['reflectances', 'radiances', 'kelvin', 'decibels'],
)
def test_images_are_told_apart_and_normalized_in_any_unit(here, dtype, scale, offset):
    def shift(pixels):
        pixels += offset

    pixels = rasters(dtype, scale=scale, change=shift)
    assert init() == 0
    settings = Config.fromfile('mine/mine.py').model.data_preprocessor
    names = Path('mine/train.txt').read_text().split()
    values = np.concatenate([pixels[int(name)].reshape(-1, 4) for name in names]).astype(float)
    np.testing.assert_allclose(settings.std, values.std(0), rtol=1e-3)
    np.testing.assert_allclose(settings.mean, values.mean(0), rtol=1e-5)


# --- images that are stored turned ---------------------------------------------------------------

UPRIGHT = {  # from how an image is stored to how it is seen, by Pillow
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    6: Image.Transpose.ROTATE_270,
    8: Image.Transpose.ROTATE_90,
}


def turned_folders(orientations, masks_are_turned, mark_masks=False):
    """Images that are stored as EXIF says, and masks; the masks as they are seen."""
    folders, seen = [Path('images'), Path('masks')], {}
    for folder in folders:
        folder.mkdir()
    for number, orientation in enumerate(orientations):
        mask = Image.fromarray(mask_of(number))
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        image = Image.fromarray(image_of(mask_of(number), number))
        image.save(f'images/{number}.jpg', quality=95, exif=exif)
        upright = mask.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else mask
        seen[f'{number}.jpg'] = np.asarray(upright)
        stored = mask if masks_are_turned else upright
        stored.save(f'masks/{number}.png', **({'exif': exif} if mark_masks else {}))
    return seen


@pytest.mark.parametrize(
    ('orientations', 'masks_are_turned', 'mark_masks'),
    [
        ([6] * 5, False, False),
        ([6] * 5, True, False),
        ([6] * 5, True, True),
        ([1, 3, 6, 8, 4, 1], False, False),
        ([1, 3, 6, 8, 4, 1], True, False),
        ([1, 3, 6, 8, 4, 1], True, True),
    ],
)
def test_photos_that_are_stored_turned_train_with_upright_masks(
    here, orientations, masks_are_turned, mark_masks
):
    seen = turned_folders(orientations, masks_are_turned, mark_masks)
    assert init() == 0
    assert check() == 0
    samples = training_samples()
    assert len(samples) >= 4
    for name, (image, label_map) in samples.items():
        np.testing.assert_array_equal(label_map, seen[name])
        np.testing.assert_array_equal(image, cv2.imread(f'images/{name}'))


@pytest.mark.parametrize('name', ['xmp', 'text'])
def test_marks_that_opencv_does_not_follow_do_not_turn_an_image(here, name):
    make_folders(here, 6)
    chunks = PngInfo()
    if name == 'xmp':
        chunks.add_itxt('XML:com.adobe.xmp', '<x tiff:Orientation="3"/>')
    else:
        exif = Image.Exif()
        exif[ORIENTATION] = 3
        chunks.add_text('Raw profile type exif', f'\nexif\n8\n{exif.tobytes().hex()}\n')
    for path in Path('images').iterdir():
        Image.open(path).save(path, pnginfo=chunks)
        assert Image.open(path).getexif()[ORIENTATION] == 3
    assert init() == 0
    assert check() == 0
    for name, (image, label_map) in training_samples().items():
        np.testing.assert_array_equal(label_map, mask_of(int(Path(name).stem)))
        np.testing.assert_array_equal(image, np.asarray(Image.open(f'images/{name}'))[..., ::-1])


def test_where_nothing_tells_how_masks_lie_init_and_check_say_so(here, capsys):
    turned_folders([3, 1, 1, 1, 1], masks_are_turned=True)
    assert init() == 1
    told = 'images/0.jpg: is stored turned (EXIF orientation 3), and nothing tells whether'
    assert told in capsys.readouterr().err
    content = cv2.imread('images/0.jpg')
    stored = Path('images/0.jpg').read_bytes()
    cv2.imwrite('images/0.jpg', content)
    assert init() == 0
    Path('images/0.jpg').write_bytes(stored)
    assert check() == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize('orientation', [2, 3, 4])
def test_label_maps_that_init_drew_lie_as_images_are_seen(here, capsys, orientation):
    seen = turned_folders([orientation] * 5, masks_are_turned=False)
    shapes = [{'label': 'car', 'points': [[2, 2], [30, 4], [20, 30]], 'shape_type': 'polygon'}]
    for name in seen:
        height, width = seen[name].shape
        about = {'imagePath': name, 'imageHeight': height, 'imageWidth': width, 'shapes': shapes}
        Path('images', name).with_suffix('.json').write_text(json.dumps(about))
    assert main(['init', 'images', '--out', 'mine']) == 0, capsys.readouterr().err
    assert check() == 0, capsys.readouterr().err


def test_check_names_a_label_map_that_is_marked_as_turned(here, capsys):
    make_folders(here)
    assert init() == 0
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    Image.fromarray(mask_of(3)).save('masks/3.png', exif=exif)
    assert check() == 1
    assert 'masks/3.png: is stored turned (EXIF orientation 3)' in capsys.readouterr().err


# --- one reader ----------------------------------------------------------------------------------


def test_grey_images_and_several_suffixes_among_colours_are_read_as_training_reads_them(here):
    make_folders(here, 8)
    Image.open('images/1.png').convert('L').save('images/1.png')
    Path('images/2.png').rename('images/2.PNG')
    Image.open('images/3.png').save('images/3.jpg')
    Path('images/3.png').unlink()
    Image.open('images/4.png').save('images/4.jpeg')
    Path('images/4.png').unlink()
    Image.open('images/5.png').convert('RGBA').save('images/5.png')
    assert init() == 0
    assert check() == 0
    cfg = Config.fromfile('mine/mine.py')
    assert (cfg.channels, cfg.load_image) == (3, {'type': 'LoadImageFromFile'})
    for name, (image, label_map) in training_samples().items():
        assert image.shape == (*SIZE, 3)
        np.testing.assert_array_equal(label_map, mask_of(int(Path(name).stem)))


def test_colours_of_16_bits_are_read_without_rasterio(here):
    make_folders(here, dtype='uint16')
    assert init() == 0
    assert check() == 0
    for name, (image, _) in training_samples().items():
        pixels = cv2.imread(f'images/{name}', cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(image, pixels.astype(np.float32))


def test_an_alpha_band_that_is_measured_is_named_and_one_that_is_a_mask_left_out(here, capsys):
    rasters('uint8')  # which GDAL marks as red, green, blue and alpha
    assert init() == 1
    told = capsys.readouterr().err
    assert 'images/0.tif: band 4 is marked as alpha' in told
    assert 'rio edit-info --colorinterp red,green,blue,undefined' in told

    def cover(pixels):
        pixels[..., 3] = 255
        pixels[:5, :, 3] = 0

    for folder in ('images', 'masks'):
        for path in Path(folder).iterdir():
            path.unlink()
    pixels = rasters('uint8', change=cover)
    assert init() == 0
    for name, (image, _) in training_samples().items():
        colours = pixels[int(Path(name).stem)][5:, :, 2::-1]
        np.testing.assert_array_equal(image[5:], colours.astype(np.float32))


@pytest.mark.parametrize('options', ["color_type='unchanged', to_float32=True", 'to_float32=True'])
def test_check_names_bands_that_are_lost(here, capsys, options):
    rasters('uint16', photometric='MINISBLACK')
    assert init() == 0
    path = Path('mine/mine.py')
    stock = f"dict(type='LoadImageFromFile', {options})"
    path.write_text(re.sub(r"dict\(type='LoadRaster'.*\)", stock, path.read_text()))
    assert check() == 1
    assert 'has 4 bands, of which LoadImageFromFile reads 1' in capsys.readouterr().err


def test_check_names_values_of_which_8_bits_are_lost(here, capsys):
    make_folders(here)
    assert init() == 0
    Image.fromarray(mask_of(2).astype(np.uint16) + 256).save('masks/2.png')
    assert check() == 1
    assert 'masks/2.png: LoadAnnotations keeps 8 bits' in capsys.readouterr().err


def png_chunk(kind, content):
    checksum = zlib.crc32(kind + content)
    return len(content).to_bytes(4, 'big') + kind + content + checksum.to_bytes(4, 'big')


def with_text(path):
    content = path.read_bytes()
    text = png_chunk(b'zTXt', b'a\0\0' + zlib.compress(b'x' * 20_000_000))
    path.write_bytes(content[:33] + text + content[33:])


@pytest.mark.parametrize(
    'change',
    [
        lambda path: path.write_bytes(path.read_bytes() + bytes(1000)),
        lambda path: path.write_bytes(path.read_bytes() + b'some more bytes' * 100),
        with_text,
    ],
    ids=['zeros behind', 'bytes behind', 'much text'],
)
def test_whole_files_are_read_whatever_else_is_in_them(here, change):
    make_folders(here, 5)
    change(Path('images/2.png'))
    change(Path('masks/2.png'))
    assert init() == 0
    assert check() == 0


@pytest.mark.parametrize('bits', [2, 4, 12])
def test_rasters_of_a_few_bits_are_read_as_they_are(here, bits):
    def cut(pixels):
        pixels >>= pixels.dtype.itemsize * 8 - bits

    dtype, scale = ('uint8', 1) if bits < 8 else ('uint16', 256.0)
    pixels = rasters(dtype, 1, scale=scale, change=cut, nbits=bits)
    assert init() == 0
    assert check() == 0
    for name, (image, _) in training_samples().items():
        np.testing.assert_array_equal(image, pixels[int(Path(name).stem)].astype(np.float32))


@pytest.mark.parametrize(('shift', 'pixel', 'is_refused'), [(0, 0.5, 0), (9, 0.5, 1), (0, 0.6, 1)])
def test_masks_of_another_place_are_named(here, capsys, shift, pixel, is_refused):
    rasters('uint16', **PLACE)
    for number in range(5):
        Path(f'masks/{number}.png').unlink()
        place = from_origin(600000 + shift * (number == 3), 5300000, pixel, pixel)
        place = {**PLACE, 'transform': place if number == 3 else PLACE['transform']}
        write_raster(f'masks/{number}.tif', mask_of(number)[None], **place)
    assert init() == is_refused
    told = 'masks/3.tif: shows another place than its image' in capsys.readouterr().err
    assert told == is_refused


def test_complex_numbers_are_named(here, capsys):
    rasters('complex64')
    assert init() == 1
    assert 'images/0.tif: has complex numbers: write their amplitudes' in capsys.readouterr().err


@pytest.mark.parametrize('share', [0.1, 0.5, 0.99])
def test_a_cut_raster_is_named(here, capsys, share):
    rasters('uint16', compress='lzw', tiled=True, blockxsize=16, blockysize=16)
    path = Path('images/2.tif')
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert init() == 1
    assert 'images/2.tif: is cut or broken' in capsys.readouterr().err


@pytest.mark.parametrize('folder', ['images', 'masks'])
@pytest.mark.parametrize('tag', [256, 257])
def test_a_tiff_without_a_width_or_a_height_is_named(here, capsys, folder, tag):
    rasters('uint16')
    Path('masks/2.png').unlink()
    write_raster('masks/2.tif', mask_of(2)[None])
    path = Path(folder, '2.tif')
    path.write_bytes(path.read_bytes().replace(struct.pack('<HH', tag, 3), b'\xff\xff\3\0', 1))
    assert init() == 1
    assert f'{path}: is cut or broken: its directory cannot be read' in capsys.readouterr().err


@pytest.mark.parametrize('suffix', ['.tif', '.gif', '.webp', '.png'])
def test_several_pages_are_named_and_smaller_copies_are_none(here, capsys, suffix):
    make_folders(here, 4)
    pages = [Image.fromarray(image_of(mask_of(n), n)) for n in range(3)]
    Path('images/1.png').unlink()
    pages[0].save(f'images/1{suffix}', save_all=True, append_images=pages[1:])
    assert init() == 1
    assert re.search(rf'images/1{suffix}: has \w+ (pages|images)', capsys.readouterr().err)
    small = pages[0].resize((20, 20))
    if suffix == '.tif':
        pages[0].save('images/1.tif', save_all=True, append_images=[small])
        assert init() == 0
