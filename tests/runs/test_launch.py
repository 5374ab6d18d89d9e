"""What the tools look at before anything is built: datasets, and machines without a GPU."""

import copy
import sys

import pytest
from mmengine.config import Config
from torch._utils import ExceptionWrapper

from pspnet_plugin.compat import runner as moments
from pspnet_plugin.datasets.check_labels import LabelValueError
from pspnet_plugin.runs import launch
from tests.helpers.processes import ROOT
from tests.helpers.street_scenes import make_street_scenes

TRAIN = launch.LOADERS['train.py']


@pytest.fixture
def cityscapes(street_scenes):
    """The Cityscapes config on the tiny street scenes."""
    return cityscapes_at(street_scenes)


def cityscapes_at(root):
    cfg = Config.fromfile(ROOT / 'configs' / 'psp_r50_cityscapes.py')
    for loader in ('train', 'val', 'test'):
        cfg[f'{loader}_dataloader'].dataset.data_root = str(root)
    return cfg


def test_complete_dataset_passes(cityscapes):
    launch.check_datasets(cityscapes, TRAIN)


def test_relative_data_root_is_relative_to_the_working_directory(street_scenes, monkeypatch):
    monkeypatch.chdir(street_scenes.parent)
    launch.check_datasets(cityscapes_at(street_scenes.name), TRAIN)


@pytest.mark.parametrize('name', ['psp_r50_cityscapes', 'psp_r50_ade20k', 'psp_r50_voc12aug'])
def test_missing_dataset_is_named_with_the_command_that_prepares_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    with pytest.raises(launch.DatasetError) as raised:
        launch.check_datasets(cfg, TRAIN)
    message = str(raised.value)
    assert f'{tmp_path / "data"}' in message.split(' does not exist')[0]
    command = cfg.prepare_dataset.replace('{mmseg_tools}', str(launch.stock_tools()))
    assert command in message


def test_missing_demo_dataset_is_named_with_the_command_that_prepares_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(ROOT / 'configs' / 'psp_efflite0_bluemarble.py')
    with pytest.raises(launch.DatasetError, match='python .*/datasets/prepare_bluemarble.py'):
        launch.check_datasets(cfg, TRAIN)


def test_named_converters_are_part_of_the_installed_mmsegmentation():
    for name in ('psp_r50_cityscapes', 'psp_r50_voc12aug'):
        command = Config.fromfile(ROOT / 'configs' / f'{name}.py').prepare_dataset
        (script,) = (word for word in command.split() if word.startswith('{mmseg_tools}'))
        assert (launch.stock_tools() / script[len('{mmseg_tools}/') :]).is_file()


@pytest.mark.parametrize(('split', 'loaders'), [('train', TRAIN), ('val', ('test_dataloader',))])
def test_image_without_a_label_map_is_named(tmp_path, split, loaders):
    root = make_street_scenes(tmp_path)
    label_map = sorted((root / 'gtFine' / split).rglob('*.png'))[0]
    label_map.unlink()
    with pytest.raises(launch.DatasetError) as raised:
        launch.check_datasets(cityscapes_at(root), loaders)
    assert f'The label map {label_map} does not exist but the image' in str(raised.value)


def test_folder_without_images_is_named(tmp_path):
    root = make_street_scenes(tmp_path)
    for image in (root / 'leftImg8bit' / 'val').rglob('*.png'):
        image.unlink()
    with pytest.raises(launch.DatasetError, match=r'No image \*_leftImg8bit.png lies in .*val'):
        launch.check_datasets(cityscapes_at(root), TRAIN)


def test_split_without_labels_may_be_tested_where_nothing_loads_them(street_scenes, tmp_path):
    cfg = cityscapes_at(street_scenes)
    dataset = cfg.test_dataloader.dataset
    dataset.data_prefix.seg_map_path = 'gtFine/test'
    with pytest.raises(launch.DatasetError, match='gtFine/test does not exist'):
        launch.check_datasets(cfg, ('test_dataloader',))
    dataset.pipeline = [step for step in dataset.pipeline if step.type == 'LoadImageFromFile']
    launch.check_datasets(cfg, ('test_dataloader',))


def test_dataset_of_another_kind_is_left_to_itself():
    from mmengine.registry import DATASETS

    @DATASETS.register_module(name='ThreeNumbers', force=True)
    class ThreeNumbers:
        def __init__(self, numbers):
            self.numbers = numbers

    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='ThreeNumbers', numbers=[1, 2, 3]))))
    launch.check_datasets(cfg, TRAIN)


def test_datasets_inside_wrappers_are_looked_at(cityscapes, tmp_path):
    missing = copy.deepcopy(cityscapes.train_dataloader.dataset)
    missing.data_root = str(tmp_path / 'elsewhere')
    whole = cityscapes.train_dataloader.dataset
    concatenated = dict(type='ConcatDataset', datasets=[whole, missing])
    cityscapes.train_dataloader.dataset = dict(type='RepeatDataset', times=2, dataset=concatenated)
    with pytest.raises(launch.DatasetError, match='elsewhere does not exist'):
        launch.check_datasets(cityscapes, TRAIN)


def test_without_a_gpu_sync_batch_norm_becomes_batch_norm_with_one_log_line(cityscapes, capsys):
    launch.fit_to_cpu(cityscapes)
    assert "'SyncBN'" not in repr(cityscapes.model)
    assert capsys.readouterr().out.count('SyncBN') == 1


def test_other_norms_stay_and_nothing_is_logged(cityscapes, capsys):
    launch.fit_to_cpu(cityscapes)
    capsys.readouterr()
    before = copy.deepcopy(cityscapes.model)
    launch.fit_to_cpu(cityscapes)
    assert cityscapes.model == before
    assert not capsys.readouterr().out


def test_distributed_run_without_a_gpu_uses_gloo(cityscapes):
    cityscapes.launcher = 'pytorch'
    launch.fit_to_cpu(cityscapes)
    assert cityscapes.env_cfg.dist_cfg.backend == 'gloo'
    assert cityscapes.model_wrapper_cfg.device_ids is None


def test_wrapper_that_the_user_chose_stays(cityscapes):
    cityscapes.launcher = 'pytorch'
    cityscapes.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None, a=1)
    launch.fit_to_cpu(cityscapes)
    assert cityscapes.model_wrapper_cfg.a == 1


def test_mixed_precision_without_a_gpu_is_bfloat16_with_one_log_line(cityscapes, capsys):
    cityscapes.optim_wrapper.update(type='AmpOptimWrapper', loss_scale='dynamic', clip_grad=None)
    launch.fit_to_cpu(cityscapes)
    assert capsys.readouterr().out.count('bfloat16') == 1
    assert cityscapes.optim_wrapper.type == 'CpuAmpOptimWrapper'
    assert set(cityscapes.optim_wrapper) == {'type', 'optimizer', 'clip_grad'}


def test_error_from_a_data_loader_worker_is_told_without_its_traceback():
    message = 'aachen_0.png holds the label values 33: see the docs'
    try:
        raise LabelValueError(message)
    except LabelValueError:
        handed_over = ExceptionWrapper(where='in DataLoader worker process 0')
    with pytest.raises(LabelValueError, match='Original Traceback') as raised:
        handed_over.reraise()
    assert launch.plain_message(raised.value) == message
    assert launch.plain_message(LabelValueError(message)) == message


@pytest.mark.parametrize('name', ['train.py', 'test.py'])
def test_stock_tool_that_has_ended_leaves_no_check_behind(name):
    before, words = list(moments.before_build), list(sys.argv)
    with pytest.raises(SystemExit) as raised:
        launch.run_stock_tool(name, ['--help'])
    assert raised.value.code == 0
    assert (moments.before_build, moments.logger_built, sys.argv) == (before, [], words)
