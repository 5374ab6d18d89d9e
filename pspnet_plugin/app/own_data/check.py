"""The images and label maps of an existing config, looked at as a run would load them."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from PIL import Image, TiffImagePlugin
from rich.progress import track

from ...errors import ImageError, PspnetPluginError
from ...transforms.check_labels import values_outside
from ...utils.datasets import class_info, datasets_of, scope_of, without_pipeline
from ..images.drawing import draw_label_map, to_rgb
from ..images.reading import PNG_START, read_bytes, require_whole
from ..training.datasets import LOADERS
from ..training.settings import setting_problems

GRID = 6  # images in a grid
CELL = 256  # pixels of the longer side of an image in the grid


class Sample(NamedTuple):
    """One image of a dataset."""

    loader: str  # the name of the data loader
    listed: dict[str, Any]  # what the dataset lists for it: ``img_path``, ``seg_map_path`` and more
    pipeline: list[dict]  # the steps that load it


class Found(NamedTuple):
    """What :func:`check_config` found."""

    images: Counter  # how many there are by data loader
    counts: np.ndarray  # pixels of each class in the training images, (classes,)
    classes: list[str]  # their names
    problems: list[str]  # a line for each
    grid: np.ndarray  # some images beside their labels, (H, W, 3) uint8 RGB


def check_config(cfg: Config) -> Found:
    """Load every image and label map that ``cfg`` names, once, without changing their sizes."""
    heads = cfg.model.decode_head
    count = (heads if isinstance(heads, dict) else heads[-1])['num_classes']
    classes, palette = class_info(cfg, {}, count)
    images: Counter = Counter()
    counts, problems = np.zeros(count, np.int64), setting_problems(cfg)
    pictures: list[np.ndarray] = []
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        for sample in track(list(samples_of(cfg)), 'looking at the images', transient=True):
            images[sample.loader] += 1
            try:
                image, label_map = load_sample(sample)
            except ImageError as error:
                problems.append(f'{sample.loader}: {error}')
                continue
            found = sample_problems(sample, image, label_map, count)
            problems += [f'{sample.loader}: {problem}' for problem in found]
            if label_map is not None and sample.loader == LOADERS[0]:
                counts += np.bincount(label_map.ravel(), minlength=256)[:count]
            if label_map is not None and len(pictures) < GRID:
                pictures.append(over_labels(image, label_map, palette))
    pictures = pictures or [np.zeros((1, 1, 3), np.uint8)]
    return Found(images, counts, classes, problems, np.concatenate(pictures, axis=1))


def samples_of(cfg: Config, loaders: Sequence[str] = LOADERS) -> Iterator[Sample]:
    """Every image of the data loaders; those that several of them have, once."""
    seen: set[str] = set()
    for loader, dataset in datasets_of(cfg, loaders):
        built = without_pipeline(dataset, scope_of(cfg))
        if built is None:
            raise PspnetPluginError(
                f'The dataset {dataset["type"]} of {loader} cannot be checked: it is none of '
                "MMSegmentation's that list their images."
            )
        for listed in built.load_data_list():
            if listed['img_path'] not in seen:
                seen.add(listed['img_path'])
                yield Sample(loader, listed, list(dataset.get('pipeline') or ()))


def load_sample(sample: Sample) -> tuple[np.ndarray, np.ndarray | None]:
    """One image, and the labels that training sees, by the steps of its pipeline that load.

    Returns:
        (H, W) or (H, W, C) with colours as BGR; and (H, W), None where there are no labels.

    Raises:
        ImageError: one of the files cannot be read.
    """
    image, labels = sample.listed['img_path'], sample.listed.get('seg_map_path')
    for path in filter(None, (image, labels)):
        require_whole(read_bytes(path), path)
    steps = [step for step in sample.pipeline if 'Load' in str(step.get('type'))]
    try:
        results = Compose(steps)(dict(sample.listed))
    except Exception as error:  # whatever a loader raises
        raise ImageError(image, f'cannot be loaded ({error!r})') from error
    return results['img'], results.get('gt_seg_map')


def sample_problems(
    sample: Sample, image: np.ndarray, label_map: np.ndarray | None, classes: int
) -> Iterator[str]:
    """What is wrong with one image and its labels, a line each."""
    path, labels = sample.listed['img_path'], sample.listed.get('seg_map_path')
    height, width = image.shape[:2]
    if image.dtype == np.uint8 and has_16_bits(read_bytes(path)):
        yield (
            f"{path}: has 16 bits and is read with 8; set color_type='unchanged' in "
            'LoadImageFromFile, and mean and std in its unit'
        )
    if crop := crop_too_large(width, height, sample.pipeline):
        yield f'{path}: {crop}'
    if label_map is None:
        return
    if label_map.shape[:2] != (height, width):
        there = ' x '.join(map(str, label_map.shape[1::-1]))
        yield f'{labels}: {there} pixels, but its image has {width} x {height}'
    elif label_map.ndim != 2:
        yield f'{labels}: is in colours; label maps have one number for each pixel'
    elif (wrong := values_outside(label_map, classes, 255)).size:
        values = ', '.join(map(str, wrong[:8]))
        yield f'{labels}: holds the label values {values}, but there are {classes} classes'


def has_16_bits(content: bytes) -> bool:
    """Whether an image file says that its channels have 16 bits; its pixels are not decoded."""
    if content.startswith(PNG_START):
        return content[24] == 16  # of the first chunk; Pillow has no mode for such colours
    try:
        with Image.open(io.BytesIO(content)) as file:
            bits = dict(getattr(file, 'tag_v2', {})).get(TiffImagePlugin.BITSPERSAMPLE, ())
            return 16 in bits or (file.mode in ('I', 'I;16') and not bits)
    except (OSError, ValueError):  # an image that OpenCV alone can read
        return False


def crop_too_large(width: int, height: int, pipeline: list) -> str | None:
    """What to say where a crop is larger than an image of this size, resized."""
    for step in pipeline:
        if step.get('type') in ('Resize', 'RandomResize') and step.get('scale'):
            scale = tuple(step['scale'])
            keeps = step.get('keep_ratio', False)
            width, height = mmcv.rescale_size((width, height), scale) if keeps else scale
        if step.get('type') == 'RandomCrop':
            sides = step['crop_size']
            rows, columns = (sides, sides) if isinstance(sides, int) else sides
            if rows > height or columns > width:
                return (
                    f'the crop of {columns} x {rows} is larger than the image, which is '
                    f'{width} x {height} there'
                )
    return None


def over_labels(image: np.ndarray, label_map: np.ndarray, palette: list[list[int]]) -> np.ndarray:
    """An image over its labels, both in squares of ``CELL`` pixels: (2 CELL, CELL, 3) uint8 RGB."""
    picture = to_rgb(image)
    longer = max(picture.shape[:2])
    rows, columns = (max(1, round(side * (CELL / longer))) for side in picture.shape[:2])
    picture = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
    nearest = cv2.INTER_NEAREST
    labels = cv2.resize(label_map.astype(np.uint8), (columns, rows), interpolation=nearest)
    palette = [*palette, *([[0, 0, 0]] * (256 - len(palette)))]  # ignored pixels are black
    canvas = np.full((2 * CELL, CELL, 3), 255, np.uint8)
    canvas[:rows, :columns] = picture
    canvas[CELL : CELL + rows, :columns] = draw_label_map(picture, labels, palette, 0.7)
    return canvas
