"""The images and label maps of an existing config, looked at as a run would load them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from rich.progress import track

from ...errors import ImageError, PspnetPluginError
from ...transforms.check_labels import altered_values, values_in, values_outside
from ...utils.config_tree import kind_of
from ...utils.datasets import class_info, datasets_of, listed_samples, scope_of, without_pipeline
from ...utils.text import one_line
from ..images.drawing import draw_label_map, to_rgb, with_legend
from ..images.reading import orientation_of, read_bytes, require_whole
from ..training.datasets import LOADERS
from ..training.settings import setting_problems
from .annotations.class_tables import IGNORED
from .classes import other_palettes
from .loading import image_problems, label_problems, share_without_data
from .masks import traces_of_losses
from .scan import doubt

GRID = 6  # images in a grid
CELL = 256  # pixels of the longer side of an image in the grid


class Sample(NamedTuple):
    """One image of a dataset."""

    loader: str  # the name of the data loader
    listed: dict[str, Any]  # what the dataset lists for it: ``img_path``, ``seg_map_path`` and more
    pipeline: list[dict]  # the steps that load it

    @property
    def loads(self) -> list[str]:
        """The types of the steps that read files."""
        return [kind for step in self.pipeline if 'Load' in (kind := kind_of(step))]


class Found(NamedTuple):
    """What :func:`check_config` found."""

    images: dict[str, int]  # how many there are by data loader
    counts: np.ndarray  # pixels of each class in the training images, (classes,)
    ignored: float  # which part of the pixels of the training images has no class, 0 to 1
    classes: list[str]  # their names
    problems: list[str]  # a line for each
    lacking: dict[str, float]  # which part of each image has no data, 0 to 1
    grid: np.ndarray  # some images over their labels, and a legend, (H, W, 3) uint8 RGB


@dataclass
class Loaded:
    """What is known of the images of one data loader."""

    counts: np.ndarray  # labelled pixels by class
    images: int = 0
    pixels: int = 0  # of all label maps, ignored ones too
    contents: dict[bytes, str] = field(default_factory=dict)  # a digest of each file -> its path
    small: list[str] = field(default_factory=list)  # a line for each image smaller than the crop


def check_config(cfg: Config) -> Found:
    """Load every image and label map that ``cfg`` names, once, without changing their sizes."""
    heads = cfg.model.decode_head
    head = heads if isinstance(heads, dict) else heads[-1]
    count, ignored = head['num_classes'], head.get('ignore_index', IGNORED)
    classes, palette = class_info(cfg, {}, count)
    problems = setting_problems(cfg)
    pictures: list[np.ndarray] = []
    loaded = {name: Loaded(np.zeros(count, np.int64)) for name in LOADERS}
    lacking: dict[str, float] = {}
    shown: dict[str, list[int]] = {}  # the values in each label map that stay as they are
    doubts: list[str] = []  # about images that are stored turned
    told = False  # whether one of them shows by its sides that its label map lies as it does
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        for sample in track(list(samples_of(cfg)), 'looking at the images', transient=True):
            loaded[sample.loader].images += 1
            try:
                image, label_map = load_sample(sample)
            except ImageError as error:
                problems.append(f'{sample.loader}: {error}')
                continue
            found = sample_problems(sample, image, label_map, count, ignored)
            problems += [f'{sample.loader}: {problem}' for problem in found]
            add_to(loaded[sample.loader], sample, image, label_map, ignored)
            is_changed = sample.listed.get('reduce_zero_label') or sample.listed.get('label_map')
            if label_map is not None and not is_changed:
                shown[sample.listed['seg_map_path']] = values_in(label_map).tolist()
            path = sample.listed['img_path']
            lacking[path] = share_without_data(path, image)
            mark = orientation_of(io.BytesIO(read_bytes(path)))
            if mark != 1 and label_map is not None and label_map.shape[:2] == image.shape[:2]:
                labels = io.BytesIO(read_bytes(sample.listed['seg_map_path']))
                says = orientation_of(labels, unsaid=0) == 1  # as pspnet init writes them
                tells = says or (mark >= 5 and image.shape[0] != image.shape[1])
                told = told or tells
                doubts += [] if tells else [f'{sample.loader}: {doubt(path, mark)}']
            if label_map is None or label_map.shape != image.shape[:2] or len(pictures) == GRID:
                continue
            pictures.append(over_labels(image, label_map, palette))
    problems += loader_problems(loaded)
    problems += other_palettes(shown)
    problems += [] if told else doubts
    images = {name: part.images for name, part in loaded.items() if part.images}
    trained = loaded[LOADERS[0]]
    without = 1 - trained.counts.sum() / max(trained.pixels, 1)
    grid = with_legend(side_by_side(pictures), classes, palette)
    return Found(images, trained.counts, without, classes, problems, lacking, grid)


def add_to(
    loaded: Loaded, sample: Sample, image: np.ndarray, label_map: np.ndarray | None, ignored: int
) -> None:
    """Note the size and the file of an image, unless it shows nothing, and its labels."""
    path = sample.listed['img_path']
    if crop := crop_too_large(image.shape[1], image.shape[0], sample.pipeline):
        loaded.small.append(f'{path}: {crop}')
    if image.size and image.min() != image.max():
        loaded.contents[hashlib.sha256(read_bytes(path)).digest()] = path
    if label_map is not None and label_map.ndim == 2:
        classes = len(loaded.counts)
        labelled = label_map[(label_map >= 0) & (label_map < classes) & (label_map != ignored)]
        loaded.counts[:] += np.bincount(labelled.astype(np.intp), minlength=classes)
        loaded.pixels += label_map.size


def loader_problems(loaded: Mapping[str, Loaded]) -> Iterator[str]:
    """What is wrong with all images of a data loader, a line each.

    A few that are smaller than the crop are padded; where most are, the crop is wrong.
    """
    trained = loaded[LOADERS[0]].contents
    for loader, part in loaded.items():
        if 2 * len(part.small) > part.images:
            yield f'{loader}: {part.small[0]}; so are {len(part.small)} of {part.images}'
        if part.pixels and not part.counts.any():
            yield f'{loader}: no pixel has a class, all are ignored; the loss is 0, and no IoU'
        both = part.contents.keys() & trained.keys() if loader != LOADERS[0] else ()
        if both:
            path, digest = min((part.contents[digest], digest) for digest in both)
            same = '' if path == trained[digest] else f', as {trained[digest]}'
            yield (
                f'{loader}: {len(both)} of {part.images} images train, too, such as {path}{same}; '
                'what is measured on them says nothing of new images'
            )


def samples_of(cfg: Config, loaders: Sequence[str] = LOADERS) -> Iterator[Sample]:
    """Every image of the data loaders; what those that do not train load in one way, once."""
    seen: set[tuple] = set()
    for loader, dataset in datasets_of(cfg, loaders):
        built = without_pipeline(dataset, scope_of(cfg))
        if built is None:
            raise PspnetPluginError(
                f'The dataset {dataset["type"]} of {loader} cannot be checked: it is none of '
                "MMSegmentation's that list their images."
            )
        pipeline = list(dataset.get('pipeline') or ())
        way = str((pipeline, built.reduce_zero_label, built.label_map, loader == LOADERS[0]))
        for listed in listed_samples(built):
            key = listed['img_path'], listed.get('seg_map_path'), way
            if key not in seen:
                seen.add(key)
                yield Sample(loader, listed, pipeline)


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
    results: Any = dict(sample.listed)
    for step in sample.pipeline:
        if 'Load' not in (kind := kind_of(step)):
            continue
        try:
            results = Compose([step])(results)
        except PspnetPluginError:
            raise
        except Exception as error:  # whatever a loader raises
            path = labels if labels and 'Annotation' in kind else image
            raise ImageError(path, f'cannot be loaded ({one_line(error)})') from error
    if 'img' not in results:
        raise PspnetPluginError(
            f'The pipeline of {sample.loader} cannot be checked: none of its steps with "Load" in '
            'their names loads images.'
        )
    return results['img'], results.get('gt_seg_map')


def sample_problems(
    sample: Sample, image: np.ndarray, label_map: np.ndarray | None, classes: int, ignored: int
) -> Iterator[str]:
    """What is wrong with one image and its labels, a line each."""
    path, labels = sample.listed['img_path'], str(sample.listed.get('seg_map_path'))
    height, width = image.shape[:2]
    yield from image_problems(path, read_bytes(path), image, sample.loads[0])
    if label_map is None:
        return
    if labels and os.path.realpath(labels) == os.path.realpath(path):
        yield f'{path}: is an image and its own label map; name another folder or suffix for these'
    if label_map.shape[:2] != (height, width):
        there = ' x '.join(map(str, label_map.shape[1::-1]))
        yield f'{labels}: {there} pixels, but its image has {width} x {height}'
    elif label_map.ndim != 2:
        yield f'{labels}: is in colours; label maps have one number for each pixel'
    elif problem := altered_values({**sample.listed, 'gt_seg_map': label_map}):
        yield problem
    elif (wrong := values_outside(label_map, classes, ignored)).size:
        values = ', '.join(map(str, wrong[:8] + bool(sample.listed.get('reduce_zero_label'))))
        yield f'{labels}: holds the label values {values}, but there are {classes} classes'
    elif problem := traces_of_losses(labels, len(values_in(label_map))):
        yield problem
    if 'LoadAnnotations' in sample.loads:
        yield from label_problems(labels, read_bytes(labels))


def crop_too_large(width: int, height: int, pipeline: list) -> str | None:
    """What to say where a crop is larger than an image of this size, resized."""
    for step in pipeline:
        if kind_of(step) in ('Resize', 'RandomResize') and step.get('scale'):
            scale = tuple(step['scale'])
            keeps = step.get('keep_ratio', False)
            width, height = mmcv.rescale_size((width, height), scale) if keeps else scale
        if kind_of(step) == 'RandomCrop':
            sides = step['crop_size']
            rows, columns = (sides, sides) if isinstance(sides, int) else sides
            if rows > height or columns > width:
                return (
                    f'the crop of {columns} x {rows} is larger than the image, which is '
                    f'{width} x {height} there'
                )
            width, height = columns, rows
    return None


def over_labels(image: np.ndarray, label_map: np.ndarray, palette: list[list[int]]) -> np.ndarray:
    """An image and, below, its labels drawn over it: (2 H, W, 3) uint8 RGB, a side ``CELL``."""
    picture = to_rgb(image)
    longer = max(picture.shape[:2])
    rows, columns = (max(1, round(side * (CELL / longer))) for side in picture.shape[:2])
    picture = cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)
    height, width = label_map.shape
    nearest = np.ix_(np.arange(rows) * height // rows, np.arange(columns) * width // columns)
    labels = label_map[nearest].astype(np.int64)
    labels[(labels < 0) | (labels >= len(palette))] = len(palette)
    palette = [*palette, [0, 0, 0]]  # ignored pixels are black
    return np.concatenate([picture, draw_label_map(picture, labels, palette, 0.7)])


def side_by_side(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures (H, W, 3) of several sizes, in squares as high as the highest of them."""
    height = max((picture.shape[0] for picture in pictures), default=1)
    sheet = np.full((height, CELL * max(len(pictures), 1), 3), 255, np.uint8)
    for left, picture in enumerate(pictures):
        sheet[: picture.shape[0], CELL * left : CELL * left + picture.shape[1]] = picture
    return sheet
