"""A folder that earlier runs, or other programs, have written into."""

import copy
import functools
import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image

from pspnet_plugin.app.models import init_model
from pspnet_plugin.app.prediction.folder import predict_folder
from pspnet_plugin.app.prediction.predictor import PredictOptions
from pspnet_plugin.errors import PredictionError
from pspnet_plugin.utils.files import replaced_when_whole, without_leftovers
from tests.helpers.folders import contents_of, write_raster
from tests.helpers.prediction import photo, write_photo


@pytest.fixture
def run(plain_model, tmp_path):
    """Predict into ``out``; the summary."""
    return functools.partial(predict_folder, plain_model, out=tmp_path / 'out')


@pytest.fixture
def expected(plain_model, tmp_path):
    """The results of one run into an empty folder that lies where ``out`` does."""

    def predicted(images):
        predict_folder(plain_model, images, tmp_path / 'new')
        return contents_of(tmp_path / 'new')

    return predicted


# --- what another program has written -----------------------------------------------------------


@pytest.mark.parametrize('place', ['labels/b.png', 'overlays/b.jpg', 'sources/b.json'])
def test_file_of_another_program_is_named_and_stays(run, tmp_path, place):
    for name in 'abc':
        write_photo(tmp_path / 'images' / f'{name}.png')
    run(tmp_path / 'images' / 'a.png')
    theirs = Path(write_photo((tmp_path / 'out' / place).with_suffix('.png'))).rename(
        tmp_path / 'out' / place
    )
    content = theirs.read_bytes()
    summary = run(tmp_path / 'images')
    assert summary.predicted == 2
    (failure,) = summary.failures
    assert str(failure).startswith(f'{tmp_path}/images/b.png: {theirs} is not as pspnet predict ')
    assert theirs.read_bytes() == content


@pytest.mark.parametrize(
    ('damage', 'place'),
    [
        (lambda content: content[: len(content) // 2], 'labels/a.png'),
        (lambda content: b'', 'labels/a.png'),
        (lambda content: b'no image', 'overlays/a.jpg'),
    ],
)
def test_damaged_result_is_named_and_stays(run, tmp_path, damage, place):
    write_photo(tmp_path / 'images' / 'a.png')
    run(tmp_path / 'images')
    path = tmp_path / 'out' / place
    path.write_bytes(damage(path.read_bytes()))
    before = path.read_bytes()
    (failure,) = run(tmp_path / 'images').failures
    assert f'{path} is not as pspnet predict wrote it' in str(failure)
    assert path.read_bytes() == before
    path.unlink()
    assert run(tmp_path / 'images') == (1, ())


def test_edited_label_map_stays_and_makes_no_row(run, tmp_path):
    for name in 'ab':
        write_photo(tmp_path / 'images' / f'{name}.png')
    run(tmp_path / 'images')
    path = tmp_path / 'out' / 'labels' / 'a.png'
    edited = np.asarray(Image.open(path)).copy()
    edited[:9] = 200  # a label that the model does not know
    Image.fromarray(edited).save(path)
    assert run(tmp_path / 'images').predicted == 1
    assert np.array_equal(np.asarray(Image.open(path)), edited)
    rows = (tmp_path / 'out' / 'shares.csv').read_text().splitlines()
    assert len({row.count(',') for row in rows}) == 1
    write_photo(tmp_path / 'images' / 'a.png', seed=7)  # a new image does not overwrite it either
    assert run(tmp_path / 'images').predicted == 1
    assert np.array_equal(np.asarray(Image.open(path)), edited)


def test_table_of_another_program_is_refused_before_anything_is_written(run, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'shares.csv').write_text('mine')
    with pytest.raises(PredictionError, match=r'shares\.csv is not of pspnet predict'):
        run(write_photo(tmp_path / 'a.png'))
    assert contents_of(tmp_path / 'out') == {'shares.csv': b'mine'}


def test_results_whose_record_of_the_model_is_missing_are_not_taken_for_those_of_another(
    run, plain_model, tmp_path
):
    write_photo(tmp_path / 'images' / 'a.png')
    run(tmp_path / 'images')
    for name in ('prediction.json', 'shares.csv'):
        (tmp_path / 'out' / name).unlink()
    before = contents_of(tmp_path / 'out')
    with pytest.raises(PredictionError, match=r'out/sources is not of .* prediction\.json is miss'):
        predict_folder(
            plain_model, tmp_path / 'images', tmp_path / 'out', PredictOptions(window=32)
        )
    assert contents_of(tmp_path / 'out') == before


# --- the same input -----------------------------------------------------------------------------


def test_image_of_the_same_name_in_another_folder_is_another_image(run, tmp_path):
    for number, folder in enumerate(['monday', 'tuesday']):
        write_photo(tmp_path / folder / 'IMG_1.png', seed=number)
    run(tmp_path / 'monday')
    before = contents_of(tmp_path / 'out' / 'labels')
    summary = run(tmp_path / 'tuesday')
    assert summary.predicted == 0
    assert 'was predicted from ../monday/IMG_1.png' in str(summary.failures[0])
    assert contents_of(tmp_path / 'out' / 'labels') == before


def older(path):
    os.utime(path, (1, 1))


def barely_newer(path):
    time = os.stat(path).st_mtime_ns + 1000
    os.utime(path, ns=(time, time))


@pytest.mark.parametrize('time', [older, barely_newer])
@pytest.mark.parametrize('size', [(67, 101), (40, 50)])
def test_new_content_is_predicted_whatever_its_time(run, expected, tmp_path, time, size):
    path = Path(write_photo(tmp_path / 'images' / 'a.bmp'))
    run(path)
    write_photo(path, *size, seed=5)
    time(path)
    assert run(path) == (1, ())
    assert contents_of(tmp_path / 'out') == expected(path)


def test_new_content_that_cannot_be_predicted_leaves_no_result_of_the_old_one(run, tmp_path):
    path = Path(write_photo(tmp_path / 'a.png'))
    run(path)
    path.write_bytes(b'nothing')
    assert len(run(path).failures) == 1
    assert not list((tmp_path / 'out' / 'labels').iterdir())


BAND = (
    '<VRTRasterBand dataType="Byte" band="{0}"><SimpleSource><SourceFilename relativeToVRT="1">'
    'a.tif</SourceFilename><SourceBand>{0}</SourceBand></SimpleSource></VRTRasterBand>'
)
BANDS = ''.join(map(BAND.format, (1, 2, 3)))
MOSAIC = f'<VRTDataset rasterXSize="50" rasterYSize="40">{BANDS}</VRTDataset>'


def another_image(folder):
    write_raster(folder / 'a.tif', np.moveaxis(photo(40, 50, 1), 2, 0))


def another_place(folder):
    (folder / 'a.tfw').write_text('7\n0\n0\n-7\n100\n200\n')


def another_mask(folder):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False):
        write_raster(folder / 'b.tif', np.zeros((3, 40, 50), np.uint8))
        with rasterio.open(folder / 'b.tif', 'r+') as file:
            file.write_mask(np.eye(40, 50, dtype=np.uint8) * 255)
    (folder / 'b.tif.msk').rename(folder / 'a.tif.msk')


@pytest.mark.filterwarnings('ignore::rasterio.errors.NotGeoreferencedWarning')
@pytest.mark.parametrize(
    ('name', 'window', 'change'),
    [
        ('mosaic.vrt', 64, another_image),
        ('a.tif', 64, another_place),
        ('a.tif', None, another_mask),
    ],
)
def test_raster_whose_other_files_change_is_predicted_again(run, tmp_path, name, window, change):
    write_raster(tmp_path / 'a.tif', np.moveaxis(photo(40, 50), 2, 0))
    (tmp_path / 'mosaic.vrt').write_text(MOSAIC)
    written = []
    for _ in range(2):
        assert run(tmp_path / name, options=PredictOptions(window=window)) == (1, ())
        (path,) = (tmp_path / 'out' / 'labels').iterdir()
        with rasterio.open(path) as file:
            written.append((file.read().tobytes(), file.transform))
        change(tmp_path)
    assert written[0] != written[1]


def test_address_is_read_anew(run, tmp_path, address):
    found = []
    for seed in range(2):
        write_photo(tmp_path / 'a.png', seed=seed)
        assert run(f'{address}/a.png') == (1, ())
        found.append((tmp_path / 'out' / 'labels' / 'a.png').read_bytes())
    assert found[0] != found[1]


def test_results_that_were_copied_with_their_images_are_known(run, plain_model, tmp_path):
    write_photo(tmp_path / 'images' / 'a.png')
    run(tmp_path / 'images')
    (tmp_path / 'moved').mkdir()
    for folder in ('images', 'out'):
        (tmp_path / folder).rename(tmp_path / 'moved' / folder)
    label_map = tmp_path / 'moved' / 'out' / 'labels' / 'a.png'
    os.utime(label_map, (9, 9))
    predict_folder(plain_model, tmp_path / 'moved' / 'images', tmp_path / 'moved' / 'out')
    assert os.stat(label_map).st_mtime == 9


# --- the same model -----------------------------------------------------------------------------


def same_pipeline_in_the_dataset(cfg):
    cfg.pop('test_pipeline')


def another_dataset_pipeline(cfg):
    cfg.pop('test_pipeline')
    steps = cfg.test_dataloader.dataset.pipeline
    steps.insert(1, dict(type='Resize', scale=(64, 64)))


def preprocessor_beside_the_model(cfg):
    cfg.data_preprocessor = copy.deepcopy(cfg.model.pop('data_preprocessor'))
    cfg.data_preprocessor.mean = [0, 0, 0]


def sliding_windows(cfg):
    cfg.model.test_cfg = dict(mode='slide', crop_size=(64, 64), stride=(32, 32))


def another_schedule(cfg):
    cfg.train_cfg.max_iters = 7
    cfg.optim_wrapper.optimizer.lr = 7
    cfg.model.auxiliary_head.num_convs = 2
    cfg.tta_pipeline = None


@pytest.mark.parametrize(
    ('change', 'differs'),
    [
        (another_dataset_pipeline, True),
        (preprocessor_beside_the_model, True),
        (sliding_windows, True),
        (another_schedule, False),
        (same_pipeline_in_the_dataset, False),
    ],
)
def test_folder_is_refused_where_the_config_reads_other_settings(
    plain_config, plain_checkpoint, run, tmp_path, change, differs
):
    path = write_photo(tmp_path / 'a.png')
    run(path)
    cfg = copy.deepcopy(plain_config)
    change(cfg)
    model = init_model(cfg, plain_checkpoint, device='cpu')
    if differs:
        with pytest.raises(PredictionError, match='predictions with another config'):
            predict_folder(model, path, tmp_path / 'out')
    else:
        predict_folder(model, path, tmp_path / 'out')


# --- other processes ----------------------------------------------------------------------------


def test_unfinished_files_are_removed_unless_another_process_may_write_them(run, tmp_path):
    path, out = write_photo(tmp_path / 'a.png'), tmp_path / 'out'
    run(path)
    with replaced_when_whole(out / 'labels' / 'b.png') as part:
        left = Path(part)
        left.touch()
    for place in (left, out / 'labels' / 'theirs.part'):
        place.write_text('half')
    run(path)
    assert not left.exists()
    with without_leftovers(out):
        left.write_text('half')
        run(path)  # the lock of a folder is one of each opening, as of each process
        assert left.exists()
    run(path)
    assert not left.exists()
    assert (out / 'labels' / 'theirs.part').exists()
