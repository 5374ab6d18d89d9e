"""The files of datasets, which are looked for before anything is built."""

import copy
import shutil

import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS

from pspnet_plugin.app.training import stock_tools
from pspnet_plugin.app.training.datasets import DatasetError, check_datasets, check_outputs
from pspnet_plugin.utils.config_files import shipped
from tests.helpers.processes import ROOT
from tests.helpers.street_scenes import cityscapes_at, make_street_scenes

TRAIN = ('train_dataloader', 'val_dataloader')


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
def test_missing_dataset_is_named_with_the_command_that_prepares_it(name, here):
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    with pytest.raises(DatasetError) as raised:
        check_datasets(cfg, TRAIN)
    missing, command = str(raised.value).split(' does not exist', 1)
    assert str(here) in missing
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


def test_label_maps_of_a_test_replace_no_files_and_not_each_other(tmp_path):
    """mmseg writes them to ``test --out`` under the names of their images, without a word."""
    root, out = make_street_scenes(tmp_path / 'data'), tmp_path / 'out'
    cfg = cityscapes_at(root)
    out.mkdir()
    (out / 'frankfurt_000004_000019_leftImg8bit.png').write_text('drawn by hand')
    check_outputs(cfg)
    cfg.test_evaluator.output_dir = str(out)
    with pytest.raises(DatasetError, match=r'out/frankfurt_000004_\S+png is there already'):
        check_outputs(cfg)
    cfg.test_evaluator.output_dir = str(tmp_path / 'new')
    check_outputs(cfg)
    shutil.copytree(root / 'leftImg8bit/val/frankfurt', root / 'leftImg8bit/val/munster')
    with pytest.raises(DatasetError, match='frankfurt.* and .*munster.* have one name'):
        check_outputs(cfg)
