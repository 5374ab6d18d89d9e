"""Small networks with random weights as config and checkpoint, and mmseg's predictions of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.apis import inference_model, init_model

import pspnet_plugin
from tests.helpers.networks import NARROW_RESNET, randomized

# Not those of Cityscapes, so that it shows where a file has them from: the checkpoint.
CLASSES = tuple(f'class {number}' for number in range(19))
PALETTE = [[7 * number, 255 - 13 * number, 100] for number in range(19)]
BN = {'type': 'BN'}
HEAD = {'channels': 16, 'num_classes': len(CLASSES), 'norm_cfg': BN}
RESNET = {**NARROW_RESNET, 'type': 'ResNetV1c', 'norm_cfg': BN}
DILATED = {**RESNET, 'strides': (1, 2, 1, 1), 'dilations': (1, 1, 2, 4), 'contract_dilation': True}
STAGES = [
    {'num_branches': n + 1, 'num_modules': 1, 'num_blocks': (1,) * (n + 1), 'block': 'BASIC'}
    for n in range(4)
]
HRNET = {
    f'stage{n}': {**stage, 'num_channels': (4, 8, 16, 32)[:n]} for n, stage in enumerate(STAGES, 1)
}
# The decode heads and backbones of mmseg's own configs, narrow.
NETWORKS = {
    'PSPNet': (DILATED, {'type': 'PSPHead', 'in_channels': 64, 'in_index': 3}),
    'UPerNet': (
        RESNET,
        {'type': 'UPerHead', 'in_channels': [8, 16, 32, 64], 'in_index': [0, 1, 2, 3]},
    ),
    'HRNet': (
        {'type': 'HRNet', 'norm_cfg': BN, 'extra': HRNET},
        {
            'type': 'FCNHead',
            'in_channels': [4, 8, 16, 32],
            'in_index': [0, 1, 2, 3],
            'input_transform': 'resize_concat',
        },
    ),
    'SegFormer': (
        {
            'type': 'MixVisionTransformer',
            'embed_dims': 8,
            'num_layers': [1, 1, 1, 1],
            'num_heads': [1, 2, 4, 8],
            'patch_sizes': [7, 3, 3, 3],
            'sr_ratios': [8, 4, 2, 1],
        },
        {'type': 'SegformerHead', 'in_channels': [8, 16, 32, 64], 'in_index': [0, 1, 2, 3]},
    ),
}


def small_config(network: str = 'PSPNet', data_root: Path | None = None, **model) -> Config:
    """The config of a narrow network on Cityscapes, as mmseg writes one.

    Args:
        network: a key of NETWORKS.
        data_root: of the datasets; without it the config names a folder that does not exist.
        model: settings of the segmentor.
    """
    backbone, head = NETWORKS[network]
    base = Config.fromfile(pspnet_plugin.config_path('psp_r18_cityscapes.py'))
    root = str(data_root or 'no_such_folder')
    for split in ('train', 'val', 'test'):
        base[f'{split}_dataloader'].dataset.data_root = root
    base.model = {
        'type': 'EncoderDecoder',
        'data_preprocessor': dict(base.model.data_preprocessor),
        'backbone': backbone,
        'decode_head': {**HEAD, **head},
        'test_cfg': {'mode': 'whole'},
        **model,
    }
    base.test_pipeline[1].scale = (128, 64)
    return base


def write_checkpoint(config: Config, path: Path) -> Path:
    """Save random weights of the config's network as mmengine saves a checkpoint."""
    network = randomized(init_model(config, None, device='cpu'))
    meta = {'dataset_meta': {'classes': CLASSES, 'palette': PALETTE}}
    torch.save({'meta': meta, 'state_dict': network.state_dict()}, path)
    return path


def pixels(size: tuple[int, int], batch: int = 1) -> np.ndarray:
    """Images as OpenCV reads them, (batch, H, W, 3), uint8, with structure."""
    generator = torch.Generator().manual_seed(sum(size))
    coarse = torch.rand(batch, 3, 9, 11, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size, mode='bicubic').clamp(0, 1)
    return (255 * smooth).to(torch.uint8).permute(0, 2, 3, 1).numpy()


def as_input(images: np.ndarray) -> np.ndarray:
    """The images as a file takes them, (batch, 3, H, W)."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def in_onnxruntime(path: Path, images: np.ndarray) -> np.ndarray:
    """What a file gives for images that it takes, (batch, C, H, W)."""
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    return session.run(None, {'image': images})[0]


def in_openvino(path: Path, images: np.ndarray) -> np.ndarray:
    exact = {'INFERENCE_PRECISION_HINT': 'f32'}
    return openvino.Core().compile_model(path, 'CPU', exact)(images)[0]


def in_pytorch(path: Path, images: np.ndarray) -> np.ndarray:
    return torch.export.load(path).module()(torch.from_numpy(images)).numpy()


def stock_labels(config: Config, checkpoint: Path, images: np.ndarray) -> np.ndarray:
    """The label maps of mmseg's own inference, one image at a time and not resized."""
    model = init_model(config.copy(), str(checkpoint), device='cpu')
    model.cfg.test_pipeline = [{'type': 'LoadImageFromNDArray'}, {'type': 'PackSegInputs'}]
    results = inference_model(model, list(images))
    return np.stack([result.pred_sem_seg.data[0].numpy() for result in results])


def stock_mean_iou(config: Config, checkpoint: Path) -> float:
    """The mIoU of the validation set, in percent, by mmseg's own test."""
    config = config.copy()
    config.work_dir = str(checkpoint.parent / 'test')
    config.load_from = str(checkpoint)
    for loader in ('val_dataloader', 'test_dataloader'):
        config[loader].update(num_workers=0, persistent_workers=False)
    return Runner.from_cfg(config).test()['mIoU']
