"""The configs of UPerNet and SegFormer start from their backbone's weights and train."""

import math

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from tests.helpers.networks import build, randomized, saved
from tests.helpers.processes import ROOT
from tests.helpers.street_scenes import CROP

# A narrow backbone for each config, and the channels of its four maps.
NARROW = {
    'upernet_convnext_t_ade20k': ({'model_name': 'convnext_atto'}, [40, 80, 160, 320]),
    'upernet_dinov3_convnext_t_ade20k': ({'model_name': 'convnext_atto'}, [40, 80, 160, 320]),
    'upernet_swin_t_ade20k': (
        {'embed_dims': 24, 'depths': [1, 1, 1, 1], 'num_heads': [1, 2, 3, 4]},
        [24, 48, 96, 192],
    ),
    'segformer_b0_cityscapes': ({'num_layers': [1, 1, 1, 1]}, [32, 64, 160, 256]),
}


def weights_file(backbone, path):
    """Random weights as the config's reference has them: timm's whole network, or mmseg's own."""
    if backbone['type'] == 'TIMMBackbone':
        return saved(randomized(timm.create_model(backbone['model_name'])), path)
    own = {name: value for name, value in backbone.items() if name != 'init_cfg'}
    return saved(randomized(build(**own)), path)


def miniature(name, data_root, folder):
    cfg = Config.fromfile(ROOT / 'configs' / f'{name}.py')
    scenes = Config.fromfile(ROOT / 'configs' / 'psp_r18_cityscapes.py').train_dataloader.dataset
    scenes.data_root = str(data_root)
    scenes.pipeline[3].scale, scenes.pipeline[4].crop_size = (128, 64), CROP
    cfg.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    cfg.train_dataloader.dataset = scenes
    cfg.train_cfg = {'type': 'IterBasedTrainLoop', 'max_iters': 2}
    for part in ('val', 'test'):
        for what in ('cfg', 'dataloader', 'evaluator'):
            cfg[f'{part}_{what}'] = None
    narrow, channels = NARROW[name]
    norm = {'type': 'BN'}
    cfg.model.data_preprocessor.size = CROP
    cfg.model.backbone.update(narrow)
    cfg.model.decode_head.update(in_channels=channels, channels=16, num_classes=19, norm_cfg=norm)
    if 'auxiliary_head' in cfg.model:
        head = {'in_channels': channels[2], 'channels': 8, 'num_classes': 19, 'norm_cfg': norm}
        cfg.model.auxiliary_head.update(head)
    source = cfg.model.backbone.get('init_cfg') or cfg.custom_hooks[0]
    assert 'Pretrained' in source.type
    source.checkpoint = weights_file(cfg.model.backbone, folder / 'weights.pth')
    cfg.work_dir, cfg.experiment_name = str(folder), f'{name}_{folder.name}'
    return cfg


def test_the_config_of_dinov3_names_the_licence_of_its_weights():
    path = ROOT / 'configs' / 'upernet_dinov3_convnext_t_ade20k.py'
    backbone = Config.fromfile(path).model.backbone
    weights = timm.get_pretrained_cfg(backbone.init_cfg.checkpoint.removeprefix('timm://'))
    assert weights.architecture == backbone.model_name
    assert weights.license in path.read_text(encoding='utf-8')


@pytest.mark.parametrize('name', NARROW)
def test_a_miniature_starts_from_the_backbones_weights_and_trains(name, street_scenes, tmp_path):
    runner = Runner.from_cfg(miniature(name, street_scenes, tmp_path))
    runner.train()
    losses = runner.message_hub.get_scalar('train/loss')._log_history
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    # The warm-up's first steps are so small that they do not change what was loaded.
    saved_tensors = torch.load(tmp_path / 'weights.pth').values()
    theirs = [t for t in saved_tensors if t.dim() > 1 and t.is_floating_point()]
    ours = [p for p in runner.model.backbone.parameters() if p.dim() > 1]
    unused = 1 if 'convnext' in name else 0  # timm's classifier
    assert len(ours) == len(theirs) - unused > 10
    for mine, weight in zip(ours, theirs):
        torch.testing.assert_close(mine.detach(), weight, rtol=0, atol=1e-5)
