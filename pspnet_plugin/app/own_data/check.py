"""The images and label maps of an existing config, looked at as a run would load them."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from PIL import Image
from rich.progress import track

from ...errors import ImageError, PspnetPluginError
from ...transforms.check_labels import MORE_BITS, altered_values, values_outside
from ...utils.config_tree import kind_of
from ...utils.datasets import class_info, datasets_of, listed_samples, scope_of, without_pipeline
from ...utils.text import one_line
from ...utils.tiff import Tags
from ..images.drawing import draw_label_map, to_rgb, with_legend
from ..images.reading import orientation_of, read_bytes, require_whole
from ..training.datasets import LOADERS
from ..training.settings import setting_problems
from .annotations.class_tables import IGNORED
from .classes import other_palettes
from .loading import image_problems, share_without_data
from .masks import Mask, Numbers, count_values, is_lossy, palette_of, traces_of_losses
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


class LoadedSample(NamedTuple):
    """One image and the labels that training sees, and what their files say, each read once."""

    sample: Sample
    path: str  # of the image
    image: np.ndarray  # (H, W) or (H, W, C) with colours as BGR
    label_map: np.ndarray | None  # (H, W); None where there are no labels
    mask: Mask  # the file of the label map, with the values as they were loaded
    content: bytes  # of the file of the image
    pages: list[Tags]  # its tags, if it is a TIFF


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
class Part:
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
    parts = {name: Part(np.zeros(count, np.int64)) for name in LOADERS}
    lacking: dict[str, float] = {}
    shown: dict[str, Mask] = {}  # those with a palette of which the values stay as they are
    doubts: list[str] = []  # about images that are stored turned
    told = False  # whether one of them shows by its sides that its label map lies as it does
    with DefaultScope.overwrite_default_scope(scope_of(cfg)):
        for sample in track(list(samples_of(cfg)), 'looking at the images', transient=True):
            part = parts[sample.loader]
            part.images += 1
            try:
                loaded = load_sample(sample)
            except ImageError as error:
                problems.append(f'{sample.loader}: {error}')
                continue
            found = sample_problems(loaded, count, ignored)
            problems += [f'{sample.loader}: {problem}' for problem in found]
            add_to(part, loaded, ignored)
            image, label_map, mask = loaded.image, loaded.label_map, loaded.mask
            is_changed = sample.listed.get('reduce_zero_label') or sample.listed.get('label_map')
            if mask.palette and not is_changed:
                shown[str(mask.path)] = mask
            lacking[loaded.path] = share_without_data(loaded.path, image)
            if label_map is None or label_map.shape[:2] != image.shape[:2]:
                continue
            if (mark := orientation_of(io.BytesIO(loaded.content))) != 1:
                # pspnet init writes that a label map is upright.
                tells = mask.mark == 1 or (mark >= 5 and image.shape[0] != image.shape[1])
                told = told or tells
                doubts += [] if tells else [f'{sample.loader}: {doubt(loaded.path, mark)}']
            if label_map.ndim == 2 and len(pictures) < GRID:
                pictures.append(over_labels(image, label_map, palette))
    problems += loader_problems(parts)
    problems += other_palettes(shown.values())
    problems += [] if told else doubts
    images = {name: part.images for name, part in parts.items() if part.images}
    trained = parts[LOADERS[0]]
    without = 1 - trained.counts.sum() / max(trained.pixels, 1)
    grid = with_legend(side_by_side(pictures), classes, palette)
    return Found(images, trained.counts, without, classes, problems, lacking, grid)


def add_to(part: Part, loaded: LoadedSample, ignored: int) -> None:
    """Note the size and the file of an image, unless it shows nothing, and its labels."""
    image, label_map, path = loaded.image, loaded.label_map, loaded.path
    if crop := crop_too_large(image.shape[1], image.shape[0], loaded.sample.pipeline):
        part.small.append(f'{path}: {crop}')
    if image.size and image.min() != image.max():
        part.contents[hashlib.sha256(loaded.content).digest()] = path
    if label_map is not None and label_map.ndim == 2:
        for (value,), count in loaded.mask.values.items():
            if 0 <= value < len(part.counts) and value != ignored:
                part.counts[int(value)] += count
        part.pixels += label_map.size


def loader_problems(parts: Mapping[str, Part]) -> Iterator[str]:
    """What is wrong with all images of a data loader, a line each.

    A few that are smaller than the crop are padded; where most are, the crop is wrong.
    """
    trained = parts[LOADERS[0]].contents
    for loader, part in parts.items():
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


def load_sample(sample: Sample) -> LoadedSample:
    """Load one image and its labels by the steps of its pipeline that load.

    Raises:
        ImageError: one of the files cannot be read.
    """
    image, labels = sample.listed['img_path'], sample.listed.get('seg_map_path')
    files = {}
    for path in filter(None, (image, labels)):
        content = read_bytes(path)
        files[path] = content, require_whole(content, path)
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
    label_map = results.get('gt_seg_map')
    mask = mask_of(label_map, labels or '', files[labels][0] if labels else b'')
    return LoadedSample(sample, image, results['img'], label_map, mask, *files[image])


def mask_of(label_map: np.ndarray | None, path: str, content: bytes) -> Mask:
    """What is known of the file of a label map, and the values that it was loaded with, sorted."""
    values = Counter() if label_map is None else count_values(Numbers(label_map, False))
    mode, palette, file = '', b'', io.BytesIO(content)
    with contextlib.suppress(OSError, ValueError, SyntaxError):  # what Pillow cannot read
        image = Image.open(file)
        mode, palette = image.mode, palette_of(image)
    values = Counter({value: values[value] for value in sorted(values)})
    mark = orientation_of(file, unsaid=0)
    return Mask(path, values, mark=mark, is_lossy=is_lossy(file), mode=mode, palette=palette)


def sample_problems(loaded: LoadedSample, classes: int, ignored: int) -> Iterator[str]:
    """What is wrong with one image and its labels, a line each."""
    sample, path, image, label_map, mask, content, pages = loaded
    labels = mask.path
    height, width = image.shape[:2]
    yield from image_problems(path, content, pages, image, sample.loads[0])
    if label_map is None:
        return
    if labels and os.path.realpath(labels) == os.path.realpath(path):
        yield f'{path}: is an image and its own label map; name another folder or suffix for these'
    if label_map.shape[:2] != (height, width):
        there = ' x '.join(map(str, label_map.shape[1::-1]))
        yield f'{labels}: {there} pixels, but its image has {width} x {height}'
    elif label_map.ndim != 2:
        yield f'{labels}: is in colours; label maps have one number for each pixel'
    elif mask.mode in MORE_BITS and (
        problem := altered_values({**sample.listed, 'gt_seg_map': label_map})
    ):
        yield problem
    elif (wrong := values_outside(np.array([v for (v,) in mask.values]), classes, ignored)).size:
        values = ', '.join(map(str, wrong[:8] + bool(sample.listed.get('reduce_zero_label'))))
        yield f'{labels}: holds the label values {values}, but there are {classes} classes'
    elif problem := traces_of_losses(mask):
        yield problem
    if 'LoadAnnotations' in sample.loads and mask.mark > 1:
        yield (
            f'{labels}: is stored turned (EXIF orientation {mask.mark}), and is read as it is '
            'stored; write it upright, without that mark'
        )


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
