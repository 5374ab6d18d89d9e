"""What is looked at before anything is built: whether the files of a dataset are there."""

import copy

import pytest
from mmengine.config import Config

from pspnet_plugin.app.training.dataset_files import DatasetError, check_datasets
from pspnet_plugin.app.training.tools import OWN_TOOLS, stock_tools
from tests.helpers.processes import ROOT
from tests.helpers.street_scenes import cityscapes_at, make_street_scenes

TRAIN = ('train_dataloader', 'val_dataloader')


@pytest.fixture
def cityscapes(street_scenes):
    """The Cityscapes config on the tiny street scenes."""
    return cityscapes_at(street_scenes)


def test_complete_dataset_passes(cityscapes):
    check_datasets(cityscapes, TRAIN)


def test_relative_data_root_is_relative_to_the_working_directory(street_scenes, monkeypatch):
    monkeypatch.chdir(street_scenes.parent)
    check_datasets(cityscapes_at(street_scenes.name), TRAIN)


@pytest.mark.parametrize(
    'name',
    [
        *['psp_r50_cityscapes', 'psp_r50_ade20k', 'psp_r50_voc12aug', 'psp_r18_ksdd2'],
        'psp_efflite0_bluemarble',
    ],
)
def test_missing_dataset_is_named_with_the_command_that_prepares_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    with pytest.raises(DatasetError) as raised:
        check_datasets(cfg, TRAIN)
    missing, command = str(raised.value).split(' does not exist', 1)
    assert str(tmp_path) in missing
    wanted = cfg.prepare_dataset.replace('{mmseg_tools}', str(stock_tools()))
    assert wanted.replace('{plugin_tools}', str(OWN_TOOLS)) in command


def test_named_converters_are_part_of_the_installed_mmsegmentation():
    for name in ('psp_r50_cityscapes', 'psp_r50_voc12aug'):
        command = Config.fromfile(ROOT / 'configs' / f'{name}.py').prepare_dataset
        (script,) = (word for word in command.split() if word.startswith('{mmseg_tools}'))
        assert (stock_tools() / script[len('{mmseg_tools}/') :]).is_file()


@pytest.mark.parametrize(('split', 'loaders'), [('train', TRAIN), ('val', ('test_dataloader',))])
def test_image_without_a_label_map_is_named(tmp_path, split, loaders):
    root = make_street_scenes(tmp_path)
    label_map = sorted((root / 'gtFine' / split).rglob('*.png'))[0]
    label_map.unlink()
    with pytest.raises(DatasetError) as raised:
        check_datasets(cityscapes_at(root), loaders)
    assert f'The label map {label_map} does not exist but the image' in str(raised.value)


def test_folder_without_images_is_named(tmp_path):
    root = make_street_scenes(tmp_path)
    for image in (root / 'leftImg8bit' / 'val').rglob('*.png'):
        image.unlink()
    with pytest.raises(DatasetError, match=r'No image \*_leftImg8bit.png lies in .*val'):
        check_datasets(cityscapes_at(root), TRAIN)


def test_split_without_labels_may_be_tested_where_nothing_loads_them(street_scenes, tmp_path):
    cfg = cityscapes_at(street_scenes)
    dataset = cfg.test_dataloader.dataset
    dataset.data_prefix.seg_map_path = 'gtFine/test'
    with pytest.raises(DatasetError, match='gtFine/test does not exist'):
        check_datasets(cfg, ('test_dataloader',))
    dataset.pipeline = [step for step in dataset.pipeline if step.type == 'LoadImageFromFile']
    check_datasets(cfg, ('test_dataloader',))


def test_dataset_of_another_kind_is_left_to_itself():
    from mmengine.registry import DATASETS

    @DATASETS.register_module(name='ThreeNumbers', force=True)
    class ThreeNumbers:
        def __init__(self, numbers):
            self.numbers = numbers

    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='ThreeNumbers', numbers=[1, 2, 3]))))
    check_datasets(cfg, TRAIN)


def test_datasets_inside_wrappers_are_looked_at(cityscapes, tmp_path):
    missing = copy.deepcopy(cityscapes.train_dataloader.dataset)
    missing.data_root = str(tmp_path / 'elsewhere')
    whole = cityscapes.train_dataloader.dataset
    concatenated = dict(type='ConcatDataset', datasets=[whole, missing])
    cityscapes.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=concatenated)
    with pytest.raises(DatasetError, match='elsewhere does not exist'):
        check_datasets(cityscapes, TRAIN)
