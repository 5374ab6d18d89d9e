"""What is looked at before anything is built: files of datasets, and their numbers of classes."""

import copy

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS

from pspnet_plugin.app.training import stock_tools
from pspnet_plugin.app.training.datasets import DatasetError, check_datasets, class_problems
from pspnet_plugin.app.training.launch import prepare
from pspnet_plugin.utils.config_files import shipped
from tests.helpers.processes import ROOT
from tests.helpers.street_scenes import cityscapes_at, make_street_scenes

TRAIN = ('train_dataloader', 'val_dataloader')
STOCK = sorted((stock_tools().parent / 'configs').glob('[!_]*/*.py'))


@pytest.fixture
def cityscapes(street_scenes):
    """The Cityscapes config on the tiny street scenes."""
    return cityscapes_at(street_scenes)


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
    assert wanted.replace('{plugin_tools}', str(shipped('tools'))) in command
    for word in cfg.prepare_dataset.split():  # the converters of the installed MMSegmentation
        if word.startswith('{mmseg_tools}/'):
            assert (stock_tools() / word.partition('/')[2]).is_file()


@pytest.mark.parametrize(
    ('pattern', 'loaders', 'told'),
    [
        ('gtFine/train/*/*_000002_*', TRAIN, 'The label map {} does not exist but the image'),
        ('gtFine/val/*/*_000005_*', ('test_dataloader',), 'The label map {} does not exist'),
        ('leftImg8bit/val/*/*.png', TRAIN, r'No image \*_leftImg8bit.png lies in .*val'),
    ],
)
def test_missing_files_are_named(tmp_path, pattern, loaders, told):
    root = make_street_scenes(tmp_path)
    for file in list(root.glob(pattern)):
        file.unlink()
    with pytest.raises(DatasetError, match=told.format(file)):
        check_datasets(cityscapes_at(root), loaders)


def test_split_without_labels_may_be_tested_where_nothing_loads_them(cityscapes):
    dataset = cityscapes.test_dataloader.dataset
    dataset.data_prefix.seg_map_path = 'gtFine/test'
    with pytest.raises(DatasetError, match='gtFine/test does not exist'):
        check_datasets(cityscapes, ('test_dataloader',))
    dataset.pipeline = [step for step in dataset.pipeline if step.type == 'LoadImageFromFile']
    check_datasets(cityscapes, ('test_dataloader',))


def test_dataset_of_another_kind_is_left_to_itself():
    @DATASETS.register_module(name='ThreeNumbers', force=True)
    class ThreeNumbers:
        def __init__(self, numbers):
            self.numbers = numbers

    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='ThreeNumbers', numbers=[1, 2, 3]))))
    check_datasets(cfg, TRAIN)


def test_datasets_inside_wrappers_are_looked_at(cityscapes, tmp_path):
    whole = cityscapes.train_dataloader.dataset
    missing = copy.deepcopy(whole)
    missing.data_root = str(tmp_path / 'elsewhere')
    concatenated = dict(type='ConcatDataset', datasets=[whole, missing])
    cityscapes.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=concatenated)
    with pytest.raises(DatasetError, match='elsewhere does not exist'):
        check_datasets(cityscapes, TRAIN)


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        ({'model.auxiliary_head.num_classes': 7}, 'model.auxiliary_head.num_classes is 7, but the'),
        ({'model.decode_head.num_classes': 150}, 'of train_dataloader has 19 classes: road, side'),
        (
            {'train_dataloader.dataset.metainfo': {'classes': ('road', 'car')}},
            'has 2 classes: road, car',
        ),
        ({'train_dataloader.dataset.pipeline.2.num_classes': 4}, 'train_dataloader has num_clas'),
    ],
)
def test_a_run_does_not_begin_with_another_number_of_classes(cityscapes, change, told):
    assert class_problems(cityscapes) == []
    cityscapes.merge_from_dict(change)
    with pytest.raises(DatasetError, match=told):
        prepare(cityscapes, ('train_dataloader',))


@pytest.mark.parametrize('folder', sorted({path.parent.name for path in STOCK}))
def test_stock_configs_agree_with_themselves(folder):
    """One config of each family, read without its custom imports."""
    path = next(path for path in STOCK if path.parent.name == folder)
    assert class_problems(Config.fromfile(path, import_custom_modules=False)) == []
