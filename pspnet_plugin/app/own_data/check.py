"""The images and label maps of an existing config, looked at as a run would load them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS

from ...errors import ImageError, PspnetPluginError
from ...transforms.check_labels import values_outside
from ...utils.config_tree import datasets_within
from ..images.drawing import draw_label_map, to_rgb
from ..images.reading import quiet_opencv, read_bytes, require_whole
from ..models.classes import class_info
from ..training.class_counts import LOADERS, class_problems

GRID = 6  # images in a grid
CELL = 256  # pixels of the longer side of an image in the grid


class Sample(NamedTuple):
    """One image of a dataset as its pipeline loads it.

    Attributes:
        loader: the name of the data loader.
        path: of the image.
        image: (H, W) or (H, W, C); colours are BGR.
        label_map: (H, W), with the labels that training sees; None where there are none.
    """

    loader: str
    path: str
    image: np.ndarray
    label_map: np.ndarray | None


class Found(NamedTuple):
    """What :func:`check_config` found.

    Attributes:
        images: how many there are by data loader.
        counts: pixels of each class in the training images, (classes,).
        classes: their names.
        problems: a line for each.
        grid: some images beside their labels, (H, W, 3) uint8 RGB.
    """

    images: dict[str, int]
    counts: np.ndarray
    classes: list[str]
    problems: list[str]
    grid: np.ndarray


def check_config(
    cfg: Config, progress: Callable[[Sequence], Iterable] = lambda items: items
) -> Found:
    """Load every image and label map that ``cfg`` names, once, without changing their sizes.

    Args:
        progress: wraps a sequence of the samples, as ``rich.progress.track`` does.
    """
    problems = class_problems(cfg)
    count = class_count(cfg)
    classes, palette = class_info(cfg, {}, count)
    images: dict[str, int] = {}
    counts = np.zeros(count, np.int64)
    cells: list[np.ndarray] = []
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmseg'):
        entries = list(entries_of(cfg))
        for loader, entry, pipeline in progress(entries):
            images[loader] = images.get(loader, 0) + 1
            try:
                sample = load(loader, entry, pipeline)
                problems += sample_problems(sample, entry, count, pipeline)
            except ImageError as error:
                problems.append(f'{loader}: {error}')
                continue
            if sample.label_map is not None and loader == LOADERS[0]:
                counts += np.bincount(sample.label_map.ravel(), minlength=256)[:count]
            if sample.label_map is not None and len(cells) < GRID:
                cells.append(cell(sample, palette))
    return Found(images, counts, classes, problems, side_by_side(cells))


def class_count(cfg: Config) -> int:
    """How many classes the decode head tells apart, the last one where there are several."""
    heads = cfg.model.decode_head
    return (heads if isinstance(heads, dict) else heads[-1])['num_classes']


# --- images -------------------------------------------------------------------------------------


def entries_of(cfg: Config, loaders: Sequence[str] = LOADERS) -> Iterator[tuple[str, dict, list]]:
    """The data loader, the entry and the pipeline of every image; those of validation once."""
    seen: set[str] = set()
    for loader in loaders:
        for dataset in datasets_within((cfg.get(loader) or {}).get('dataset')):
            kind = dataset['type']
            kind = DATASETS.get(kind) if isinstance(kind, str) else kind
            if not (isinstance(kind, type) and issubclass(kind, BaseSegDataset)):
                raise PspnetPluginError(
                    f'The dataset {dataset["type"]} of {loader} cannot be checked: it is none of '
                    "MMSegmentation's that list their images."
                )
            built = DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True})
            for entry in built.load_data_list():
                if entry['img_path'] not in seen:
                    seen.add(entry['img_path'])
                    yield loader, entry, list(dataset.get('pipeline') or ())


def load(loader: str, entry: dict, pipeline: list) -> Sample:
    """Load one image with its labels by the steps of its pipeline that load.

    Raises:
        ImageError: one of the files cannot be read.
    """
    for path in filter(None, (entry['img_path'], entry.get('seg_map_path'))):
        require_whole(read_bytes(path), path)
    steps = [step for step in pipeline if 'Load' in str(step.get('type'))]
    try:
        results = Compose(steps)(dict(entry))
    except Exception as error:  # whatever a loader raises
        raise ImageError(entry['img_path'], f'cannot be loaded ({error!r})') from error
    return Sample(loader, entry['img_path'], results['img'], results.get('gt_seg_map'))


def sample_problems(sample: Sample, entry: dict, count: int, pipeline: list) -> Iterator[str]:
    """What is wrong with one image and its labels, a line each."""
    height, width = sample.image.shape[:2]
    where = f'{sample.loader}: {sample.path}'
    depth = file_depth(sample.path)
    if depth == 'uint16' and sample.image.dtype == np.uint8:
        yield (
            f"{where}: has 16 bits and is read with 8; set color_type='unchanged' in "
            'LoadImageFromFile, and mean and std in its unit'
        )
    crop = crop_too_large((width, height), pipeline)
    if crop is not None:
        yield f'{where}: {crop}'
    if sample.label_map is None:
        return
    labels = f'{sample.loader}: {entry.get("seg_map_path")}'
    if sample.label_map.shape[:2] != (height, width):
        there = ' x '.join(map(str, sample.label_map.shape[1::-1]))
        yield f'{labels}: {there} pixels, but its image has {width} x {height}'
    elif sample.label_map.ndim != 2:
        yield f'{labels}: is in colours; label maps have one number for each pixel'
    else:
        wrong = values_outside(sample.label_map, count, 255)
        if wrong.size:
            values = ', '.join(map(str, wrong[:8]))
            yield f'{labels}: holds the label values {values}, but there are {count} classes'


def file_depth(path: str) -> str:
    """The type of the values in an image file, as OpenCV reads them unchanged."""
    with quiet_opencv():
        pixels = cv2.imdecode(np.frombuffer(read_bytes(path), np.uint8), cv2.IMREAD_UNCHANGED)
    return 'unknown' if pixels is None else str(pixels.dtype)


def crop_too_large(size: tuple[int, int], pipeline: list) -> str | None:
    """What to say where a crop is larger than an image of ``size`` (width, height), resized."""
    width, height = size
    for step in pipeline:
        if step.get('type') in ('Resize', 'RandomResize') and step.get('scale'):
            scale = tuple(step['scale'])
            keeps = step.get('keep_ratio', False)
            width, height = mmcv.rescale_size((width, height), scale) if keeps else scale
        if step.get('type') == 'RandomCrop':
            sides = step['crop_size']
            crop = (sides, sides) if isinstance(sides, int) else tuple(sides)
            if crop[0] > height or crop[1] > width:
                return (
                    f'the crop of {crop[1]} x {crop[0]} is larger than the image, which is '
                    f'{width} x {height} there'
                )
    return None


# --- grid ---------------------------------------------------------------------------------------


def cell(sample: Sample, palette: list[list[int]]) -> np.ndarray:
    """An image over its labels, small."""
    picture = to_rgb(sample.image)
    height, width = picture.shape[:2]
    factor = CELL / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    assert sample.label_map is not None
    labels = cv2.resize(sample.label_map.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST)
    palette = [*palette, *([[0, 0, 0]] * (256 - len(palette)))]  # ignored pixels are black
    picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    canvas = np.full((2 * CELL, CELL, 3), 255, np.uint8)
    canvas[: size[1], : size[0]] = picture
    canvas[CELL : CELL + size[1], : size[0]] = draw_label_map(picture, labels, palette, 0.7)
    return canvas


def side_by_side(cells: list[np.ndarray]) -> np.ndarray:
    """Cells in one row."""
    return np.concatenate(cells, axis=1) if cells else np.zeros((1, 1, 3), np.uint8)
