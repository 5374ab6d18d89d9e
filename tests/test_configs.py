"""The plugin's configs build the models of MMSegmentation's own and train them the same way."""

import copy
import importlib.util

import pytest
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS

from pspnet_plugin.app.training import stock_tools
from pspnet_plugin.replacements import REPLACEMENTS
from pspnet_plugin.utils.config_tree import dicts_within
from tests.helpers.processes import ROOT

STOCK = {
    'psp_r18_cityscapes': 'pspnet_r18-d8_4xb2-80k_cityscapes-512x1024',
    'psp_r18_loveda': 'pspnet_r18-d8_4xb4-80k_loveda-512x512',
    'psp_r18_potsdam': 'pspnet_r18-d8_4xb4-80k_potsdam-512x512',
    'psp_r50_cityscapes': 'pspnet_r50-d8_4xb2-40k_cityscapes-512x1024',
    'psp_r101_cityscapes': 'pspnet_r101-d8_4xb2-40k_cityscapes-512x1024',
    'psp_r50_ade20k': 'pspnet_r50-d8_4xb4-80k_ade20k-512x512',
    'psp_r50_voc12aug': 'pspnet_r50-d8_4xb4-20k_voc12aug-512x512',
}
SPEED = {
    'channels_last': {'type': 'ChannelsLastHook'},
    'folding': {'type': 'FoldBatchNormHook'},
    'kept_memory': {'type': 'KeepMemoryHook'},
}
pairs = pytest.mark.parametrize(('ours', 'stock'), STOCK.items())
every_config = pytest.mark.parametrize(
    'path', sorted((ROOT / 'configs').glob('*.py')), ids=lambda path: path.stem
)


def read_ours(name):
    return Config.fromfile(ROOT / 'configs' / f'{name}.py')


def read_stock(name):
    return Config.fromfile(stock_tools().parent / 'configs' / 'pspnet' / f'{name}.py')


def build(cfg):
    """The segmentor of ``cfg`` in evaluation mode, every weight and running statistic random."""
    model = copy.deepcopy(cfg.model)
    model.backbone.init_cfg = None
    model.pretrained = None
    with DefaultScope.overwrite_default_scope('mmseg'):
        segmentor = revert_sync_batchnorm(MODELS.build(model)).eval()
    with torch.no_grad():
        for name, value in segmentor.state_dict().items():
            if name.endswith('running_var'):
                value.uniform_(0.5, 2)
            elif value.dtype.is_floating_point and value.dim() == 1:
                value.normal_(0, 0.3).add_(1 if name.endswith('weight') else 0)
    return segmentor


@pairs
def test_weights_go_both_ways_and_logits_agree(ours, stock):
    torch.manual_seed(0)
    mine, theirs = build(read_ours(ours)), build(read_stock(stock))
    theirs.load_state_dict(mine.state_dict(), strict=True)
    mine.load_state_dict(theirs.state_dict(), strict=True)
    images = torch.randn(1, 3, 65, 97)
    with torch.no_grad():
        expected, logits = theirs(images), mine(images)
        features = theirs.extract_feat(images)
        expected_aux, aux = theirs.auxiliary_head(features), mine.auxiliary_head(features)
    assert torch.linalg.norm(logits - expected) <= 1e-5 * torch.linalg.norm(expected)
    assert torch.linalg.norm(aux - expected_aux) <= 1e-5 * torch.linalg.norm(expected_aux)


def pipeline_without_checks(dataset):
    if 'datasets' in dataset:
        return [pipeline_without_checks(part) for part in dataset.datasets]
    steps = [dict(step) for step in dataset.pipeline if step.type != 'CheckLabels']
    return [{**dataset, 'pipeline': steps}]


@pairs
def test_recipe_is_the_published_one(ours, stock):
    mine, theirs = read_ours(ours), read_stock(stock)
    # Beyond the recipe: the best checkpoint is kept too, --show-dir draws every image, the log has
    # the IoU of each class, and everything runs the fast way.
    assert mine.val_evaluator.pop('type') == 'ClassIoUMetric'
    assert theirs.val_evaluator.pop('type') == 'IoUMetric'
    assert mine.default_hooks.checkpoint.pop('save_best') == 'mIoU'
    assert mine.default_hooks.visualization.pop('interval') == 1
    for name, hook in SPEED.items():
        assert mine.default_hooks.pop(name) == hook
    for part in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'val_evaluator', 'default_hooks'):
        assert mine[part] == theirs[part], part
    assert mine.model.data_preprocessor == theirs.model.data_preprocessor
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        mine_dataset, their_dataset = mine[loader].pop('dataset'), theirs[loader].pop('dataset')
        assert mine[loader] == theirs[loader]
        assert pipeline_without_checks(mine_dataset) == pipeline_without_checks(their_dataset)


@pairs
def test_pretrained_weights_are_those_of_the_stock_config(ours, stock):
    mine, theirs = read_ours(ours), read_stock(stock)
    assert mine.model.backbone.init_cfg.checkpoint == theirs.model.pretrained


@every_config
def test_every_config_names_the_plugin_and_checks_labels_against_its_heads(path):
    cfg = Config.fromfile(path)
    assert cfg.custom_imports.imports == ['pspnet_plugin']
    classes = {node.num_classes for node in dicts_within(cfg.model) if 'num_classes' in node}
    pipelines = [node for node in dicts_within(cfg._cfg_dict) if 'pipeline' in node]
    assert len(pipelines) >= 3
    for pipeline in pipelines:
        checked = [n for n in dicts_within(pipeline) if n.get('type') == 'CheckLabels']
        assert {check.num_classes for check in checked} == classes
        assert len(classes) == 1


@every_config
def test_every_config_runs_as_fast_as_an_accelerated_one(path):
    cfg = Config.fromfile(path)
    assert {name: cfg.default_hooks[name] for name in SPEED} == SPEED
    assert cfg.model.type == 'LabelMapEncoderDecoder'
    assert cfg.model.test_cfg.seg_logits is False
    heads = [node.type for node in dicts_within(cfg.model) if 'num_classes' in node]
    assert not set(heads) & set(REPLACEMENTS)


@pytest.mark.parametrize('installed', [True, False])
def test_configs_log_to_tensorboard_where_it_is_installed(installed, monkeypatch):
    spec = importlib.util.find_spec('json') if installed else None
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: spec)
    logged = [backend.type for backend in read_ours('psp_r18_cityscapes').visualizer.vis_backends]
    assert logged == ['LocalVisBackend'] + ['TensorboardVisBackend'] * installed
