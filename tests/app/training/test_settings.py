"""Settings that do not fit each other are told before anything is built, by ``check`` too."""

from __future__ import annotations

import json

import pytest
from mmengine.config import Config
from mmseg.datasets import CityscapesDataset

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.own_data.check import check_config
from pspnet_plugin.app.training import stock_tools
from pspnet_plugin.app.training.datasets import DatasetError
from pspnet_plugin.app.training.launch import prepare
from pspnet_plugin.app.training.settings import setting_problems
from pspnet_plugin.errors import PspnetPluginError
from pspnet_plugin.utils.datasets import class_info
from tests.helpers.folders import make_folders
from tests.helpers.street_scenes import NARROW_MODEL, cityscapes_at, small_run_options

TRAIN = ('train_dataloader', 'val_dataloader')
STOCK = sorted((stock_tools().parent / 'configs').glob('[!_]*/*.py'))
HEADS = 'model.decode_head', 'model.auxiliary_head'


@pytest.fixture
def cityscapes(street_scenes):
    """The Cityscapes config on the tiny street scenes."""
    return cityscapes_at(street_scenes)


def both(**settings):
    return {f'{head}.{name}': value for head in HEADS for name, value in settings.items()}


def with_loss(**settings):
    return {'model.decode_head.loss_decode': dict(type='CrossEntropyLoss', **settings)}


CITYSCAPES = CityscapesDataset.METAINFO['classes']
WEIGHTS = [1.0] * 19
OF_CLASSES = {'val_evaluator.type': 'ClassIoUMetric'}


def best(name) -> dict:
    return {'default_hooks.checkpoint.save_best': name}


FIT = {
    'weights': with_loss(class_weight=WEIGHTS),
    'sigmoid': with_loss(use_sigmoid=True),
    'one output': {**both(out_channels=1), **both(loss_decode=dict(
        type='CrossEntropyLoss', use_sigmoid=True, class_weight=[2.0]))},
    'two losses': {'model.decode_head.loss_decode': [
        dict(type='CrossEntropyLoss', class_weight=WEIGHTS), dict(type='DiceLoss')]},
    'other ignored value': {
        **both(ignore_index=200),
        'train_dataloader.dataset.pipeline.2.ignore_index': 200,
        'val_dataloader.dataset.pipeline.3.ignore_index': 200,
        'val_evaluator.ignore_index': 200,
        'test_evaluator.ignore_index': 200,
        'model.data_preprocessor.seg_pad_val': 200,
    },
    'gaps of nothing': {
        'model.test_cfg': dict(mode='slide', crop_size=(64, 64), stride=(64, 64))},
    'epochs': {
        'train_cfg': dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2),
        'train_dataloader.sampler.type': 'DefaultSampler', 'param_scheduler.0.by_epoch': True},
    'best of a class': {**best(['IoU/road', 'mIoU']), **OF_CLASSES},
    'best of several': {**best('mPrecision'), 'val_evaluator.iou_metrics': ['mIoU', 'mFscore']},
    'lowest loss': {**best('val_loss'), 'custom_hooks': [dict(type='ValidationLossHook')]},
    'metric of others': {**best('mine'), 'val_evaluator.type': 'CityscapesMetric'},
    'best': best('auto'),
    'batch of one': {'train_dataloader.batch_size': 1, **both(norm_cfg=dict(type='GN'))},
    'one worker': {'train_dataloader.num_workers': 1},
    'no workers': {'train_dataloader.num_workers': 0, 'train_dataloader.persistent_workers': False},
}  # fmt: skip
DIFFER = [
    ({'model.auxiliary_head.num_classes': 7}, 'model.auxiliary_head.num_classes is 7, but the'),
    ({'model.decode_head.num_classes': 150}, 'of train_dataloader has 19 classes: road, side'),
    ({'train_dataloader.dataset.metainfo': {'classes': ('road', 'car')}}, 'has 2 classes: road, c'),
    ({'train_dataloader.dataset.pipeline.2.num_classes': 4}, 'train_dataloader has num_clas'),
    (
        {'val_dataloader.dataset.metainfo': {'classes': CITYSCAPES[::-1]}},
        'val_dataloader has the classes bicycle, .* in the order road, .* means another class',
    ),
    (with_loss(class_weight=WEIGHTS[1:]), 'class_weight has 18 values, but the head has 19'),
    (with_loss(class_weight=[*WEIGHTS, 1.0]), 'class_weight has 20 values, but the head has 19'),
    (
        {'model.auxiliary_head.loss_decode': [
            dict(type='DiceLoss'), dict(type='LovaszLoss', class_weight=[1.0, 2.0])]},
        r'auxiliary_head\.loss_decode\.class_weight has 2 values, but the head has 19',
    ),
    (with_loss(class_weight='no.json'), r"class_weight='no\.json' cannot be read"),
    (with_loss(class_weight=WEIGHTS, use_sigmoid=True), 'class_weight beside use_sigmoid=True'),
    (both(num_classes=1), 'decode_head has one class, so its softmax is 1 everywhere'),
    (both(num_classes=2, out_channels=1), r'head\.out_channels is 1, .* needs .* use_sigmoid=True'),
    (both(num_classes=1, loss_decode=dict(type='TverskyLoss')), 'has one class, so its softmax'),
    (
        both(num_classes=2, out_channels=1, loss_decode=dict(type='DiceLoss', use_sigmoid=False)),
        'out_channels is 1, of which DiceLoss makes a softmax',
    ),
    (with_loss(class_weight=[0.0] * 19), 'is below 0, or 0 for all'),
    (with_loss(class_weight=[-1.0, *WEIGHTS[1:]]), 'is below 0, or 0 for all'),
    (with_loss(loss_name='ce'), "loss_name 'ce' is without .* call it loss_ce"),
    (
        {'model.decode_head.sampler': dict(type='OHEMPixelSampler', thresh=0.7),
         'model.decode_head.loss_decode': [dict(type='CrossEntropyLoss'), dict(type='DiceLoss')]},
        'has a sampler of pixels beside DiceLoss',
    ),
    ({'val_dataloader.sampler.type': 'InfiniteSampler'}, 'val_dataloader.*its epoch never ends'),
    (
        {'train_cfg': dict(_delete_=True, type='EpochBasedTrainLoop', max_epochs=2)},
        'train_dataloader.sampler is an InfiniteSampler, with which its epoch never ends',
    ),
    ({'param_scheduler.0.by_epoch': True}, 'PolyLR counts epochs, but train_cfg iterations'),
    ({'default_hooks.checkpoint.by_epoch': True}, 'CheckpointHook counts epochs, but train_cfg'),
    (
        {'model.test_cfg': dict(mode='slide', crop_size=(64, 64), stride=(64, 65))},
        r'a stride of \(64, 65\) between windows of \(64, 64\), which leaves gaps',
    ),
    ({'val_evaluator.iou_metrics': ['mIOU']}, "iou_metrics has 'mIOU': mIoU, mDice and mFscore"),
    ({'model.data_preprocessor.seg_pad_val': 0}, 'seg_pad_val of the data_preprocessor is 0'),
    (
        {'train_dataloader.num_workers': 0},
        'train_dataloader.num_workers is 0, but persistent_workers is True',
    ),
    (
        {'val_dataloader.num_workers': 0, 'val_dataloader.persistent_workers': False,
         'val_dataloader.prefetch_factor': 4},
        'val_dataloader.num_workers is 0, but prefetch_factor is 4',
    ),
    (
        {'train_dataloader.batch_size': 1, **both(norm_cfg=dict(type='BN'))},
        'batch_size is 1, but model.decode_head pools an image to one value',
    ),
    ({'train_cfg.max_iters': 0}, 'train_cfg.max_iters is 0: nothing would be trained'),
    ({'train_cfg.max_iters': 'all'}, "train_cfg.max_iters is 'all': nothing would be trained"),
    ({'train_cfg.val_interval': 0}, 'train_cfg.val_interval is 0: set a number from 1 on'),
    ({'train_cfg.val_interval': None}, 'train_cfg.val_interval is None: set a number'),
    (
        {'model.decode_head.ignore_index': 200},
        'model.decode_head.ignore_index is 200, model.auxiliary_head.ignore_index is 255',
    ),
    ({'val_evaluator.ignore_index': 0}, 'val_evaluator.ignore_index is 0'),
    (best('miou'), "save_best='miou' is none of .*: aAcc, mAcc, mIoU"),
    ({**best(['mIoU', 'IoU/road']), 'val_evaluator.type': 'IoUMetric'},
     "save_best='IoU/road' is none of what a validation gives"),
    (best('mDice'), "save_best='mDice' is none of"),
    ({**best('IoU/rode'), **OF_CLASSES}, 'Did you mean IoU/road'),
    ({**best('mIoU'), 'val_evaluator.prefix': 'val'}, 'Did you mean val/mIoU'),
]  # fmt: skip


@pytest.mark.parametrize(
    'what', [setting_problems, check_config, lambda cfg: class_info(cfg, {}, 19)]
)
def test_several_data_loaders_in_a_list_are_named(cityscapes, what):
    cityscapes.val_dataloader = [cityscapes.val_dataloader] * 2
    with pytest.raises(PspnetPluginError, match='val_dataloader is a list, .* ConcatDataset'):
        what(cityscapes)


@pytest.mark.parametrize('name', FIT)
def test_settings_that_fit_are_no_problem(cityscapes, name):
    cityscapes.merge_from_dict(FIT[name])
    assert setting_problems(cityscapes, TRAIN) == []


@pytest.mark.parametrize(('change', 'told'), DIFFER)
def test_a_run_does_not_begin_with_settings_that_do_not_fit(cityscapes, change, told):
    assert setting_problems(cityscapes) == []
    cityscapes.merge_from_dict(change)
    with pytest.raises(DatasetError, match=told):
        prepare(cityscapes, TRAIN)


def test_what_a_test_does_not_read_does_not_stop_it(cityscapes):
    cityscapes.merge_from_dict({'train_dataloader.num_workers': 0, **with_loss(class_weight=[1])})
    assert setting_problems(cityscapes, ('test_dataloader',)) == []


def test_class_weights_in_a_file_are_counted(cityscapes, tmp_path):
    file = tmp_path / 'weights.json'
    cityscapes.merge_from_dict(with_loss(class_weight=str(file)))
    file.write_text(json.dumps(WEIGHTS))
    assert setting_problems(cityscapes) == []
    file.write_text(json.dumps(WEIGHTS[2:]))
    assert 'has 17 values, but the head has 19 outputs' in setting_problems(cityscapes)[0]


def test_check_tells_all_of_them_a_line_each(here, capsys):
    make_folders(here)
    assert main(['init', 'images', 'masks', '--out', 'mine']) == 0
    options = ['train_dataloader.num_workers=0', 'model.decode_head.loss_decode.class_weight=[1,2]']
    assert main(['check', 'mine/mine.py', '--cfg-options', *options]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert 'persistent_workers' in errors[0]
    assert 'has 2 values, but the head has 3 outputs' in errors[1]


def test_a_last_batch_of_one_image_is_one_line(street_scenes, tmp_path, capsys):
    """Three images in batches of two."""
    loader = {'sampler.type': 'DefaultSampler', 'dataset.indices': 3}
    more = [f'train_dataloader.{name}={value}' for name, value in loader.items()]
    options = [*small_run_options(street_scenes, 2, 2), *NARROW_MODEL, *more]
    assert main(['train', 'psp_r50_cityscapes', '--work-dir', str(tmp_path), *options]) == 1
    error = capsys.readouterr().err.rpartition('error: ')[2]
    assert 'drop_last=True' in error
    assert error.count('\n') == 1


@pytest.mark.parametrize('folder', sorted({path.parent.name for path in STOCK}))
def test_stock_configs_agree_with_themselves(folder):
    """One config of each family, read without its custom imports."""
    path = next(path for path in STOCK if path.parent.name == folder)
    assert setting_problems(Config.fromfile(path, import_custom_modules=False)) == []
