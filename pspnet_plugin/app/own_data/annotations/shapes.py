"""What the file of every annotation tool comes to: images with shapes, each with a label."""

from __future__ import annotations

import contextlib
import json
import posixpath
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ....errors import PredictionError
from ....utils.rasters import Raster
from ...images.reading import orientation_of
from ...images.sources import RASTER_SUFFIXES, files_below
from ..pairs import SUFFIXES

FARTHEST = 1e6  # pixels: no image is larger
TURNED = range(5, 9)  # by a quarter, as EXIF says it


class AnnotationError(ValueError):
    """One annotation cannot be used; the message says why."""


class Runs(NamedTuple):
    """A mask by the lengths of its runs: outside, inside, outside …"""

    lengths: np.ndarray  # integers
    size: tuple[int, int]  # rows and columns that they fill
    corner: tuple[int, int] = (0, 0)  # row and column of the image where they begin
    by_column: bool = False  # whether they go down the columns, as COCO's do


class Shape(NamedTuple):
    """A region of an image: rings, or runs."""

    label: str
    # Outlines, (N, 2) float: x and y, 0 at the left and the upper edge of the image. A ring that
    # lies inside another is a hole.
    rings: Sequence[np.ndarray] = ()
    runs: Runs | None = None
    layer: int = 0  # the higher lies on top; of one layer the later


class AnnotatedImage(NamedTuple):
    """An image and its shapes, in the order of the file."""

    path: Path
    size: tuple[int, int]  # rows, columns
    shapes: list[Shape]
    side: str | None = None  # 'train', 'val' or 'test', where the file says so


class Annotations:
    """The images and shapes of a dataset while they are collected, and what is wrong with them."""

    def __init__(self) -> None:
        self.labels: list[str] = []  # in the order of the file
        self.images: dict[Path, AnnotatedImage] = {}
        self.problems: list[str] = []  # each with the file's name: shapes and images left out
        self.without_area: list[str] = []  # lines and points, which have no area

    @contextlib.contextmanager
    def noting(self, place: str) -> Iterator[None]:
        """Note a AnnotationError that is raised within, with its place."""
        try:
            yield
        except AnnotationError as error:
            self.problems.append(f'{place}: {error}')

    def add_image(self, path: Path, width: Any, height: Any, side: str | None) -> AnnotatedImage:
        """A new image; its size is compared with what the annotations say, where they do."""
        if path in self.images:
            raise AnnotationError(f'{path.name} is annotated twice')
        rows, columns = size_of(path)
        if (width, height) not in ((None, None), (columns, rows)):
            raise AnnotationError(
                f'{path.name} has {width} x {height} pixels there, but the image {columns} x {rows}'
            )
        self.images[path] = AnnotatedImage(path, (rows, columns), [], side)
        return self.images[path]

    def add_label(self, name: str) -> str:
        """Remember a label, where it is new."""
        if name not in self.labels:
            self.labels.append(name)
        return name


class ImageFiles:
    """The images of a folder, found by the names that annotations give them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = {p.relative_to(folder).as_posix(): p for p in files_below(folder, SUFFIXES)}
        self.elsewhere: list[str] = []  # images that lie in another folder than they are said to
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        for path in self.paths.values():
            self._by_name[path.name].append(path)

    def find(self, name: Any, file: Path) -> Path:
        """The image that an annotation file names: below the folder, below the file, by its name.

        Only what the folder holds is ever found.
        """
        if not isinstance(name, str) or not name:
            raise AnnotationError(f'{name!r} is no name of an image')
        path = posixpath.normpath(name.replace('\\', '/'))
        with contextlib.suppress(ValueError):  # the file is not below the folder
            below = file.parent.resolve().relative_to(self.folder.resolve()).as_posix()
            beside = posixpath.normpath(f'{below}/{path}')
            if beside in self.paths:
                return self.paths[beside]
        if path in self.paths:
            return self.paths[path]
        if path.startswith(('/', '../')) or path[1:2] == ':':
            raise AnnotationError(f'the image {name} is outside of {self.folder}')
        same = self._by_name[posixpath.basename(path)]
        if len(same) != 1:
            count = len(same) or 'no'
            raise AnnotationError(f'there are {count} images {name} below {self.folder}')
        folder = same[0].parent
        if folder != self.folder and Path(path).parent.name not in ('', folder.name):
            self.elsewhere.append(f'{name} at {same[0]}')
        return same[0]


def size_of(path: Path) -> tuple[int, int]:
    """Rows and columns of an image as tools show it, upright; its pixels are not read.

    Raises:
        AnnotationError: it cannot be read.
    """
    try:
        with path.open('rb') as file:
            is_turned = orientation_of(file) in TURNED
            columns, rows = Image.open(file).size
            return (columns, rows) if is_turned else (rows, columns)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if path.suffix.lower() not in RASTER_SUFFIXES:
            raise AnnotationError(f'{path}: is no image that can be read ({error})') from error
    try:  # more channels, or pixels, than Pillow knows
        with Raster(str(path)) as raster:
            return raster.size
    except PredictionError as error:
        raise AnnotationError(str(error)) from error


def load_json(file: Path) -> Any:
    """What a JSON file holds.

    Raises:
        AnnotationError: it is cut, or no JSON.
    """
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise AnnotationError(f'is cut or no JSON ({error})') from error


def field(entry: Any, key: str, *kinds: type) -> Any:
    """``entry[key]``, which has to be of one of these types."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kinds) or isinstance(value, bool):
        names = {int: 'a number', str: 'a text', list: 'a list', dict: 'a table'}
        wanted = ' or '.join(names[kind] for kind in kinds)
        raise AnnotationError(f'{key} is {shown(value)}, not {wanted}')
    return value


def label_of(name: Any) -> str:
    """A label, with its blanks but those around it."""
    if not isinstance(name, str) or not name.strip():
        raise AnnotationError(f'the label {shown(name)} is empty or no text')
    return name.strip()


def numbers(values: Any, largest: float = FARTHEST) -> np.ndarray:
    """Finite numbers as float64; neither texts nor anything else is taken for one."""
    try:
        found = np.asarray(values)
    except (ValueError, OverflowError) as error:  # lists of several lengths
        raise AnnotationError(f'{shown(values)} are no coordinates') from error
    if found.dtype.kind not in 'iuf' and found.size:
        raise AnnotationError(f'{shown(values)} are no coordinates: all have to be numbers')
    is_usable = np.abs(found) <= largest  # which NaN is not
    if not is_usable.all():
        raise AnnotationError(f'a coordinate is {found[~is_usable][0]}')
    return found.astype(np.float64)


def ring_of(values: Any) -> np.ndarray:
    """An outline, (N, 2), from x, y, x, y … or from pairs of them."""
    found = numbers(values)
    if found.size % 2 or not (found.ndim == 1 or (found.ndim == 2 and found.shape[1] == 2)):
        raise AnnotationError(f'{shown(values)} are no pairs of x and y')
    if found.size < 6:
        raise AnnotationError(f'a polygon of {found.size // 2} points; it needs three or more')
    return found.reshape(-1, 2)


def rectangle(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    """Its four corners."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def ellipse(x: float, y: float, radius_x: float, radius_y: float) -> np.ndarray:
    """An ellipse as a polygon, off by less than a tenth of a pixel up to a radius of 2500."""
    angles = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    return np.stack([x + radius_x * np.cos(angles), y + radius_y * np.sin(angles)], axis=1)


def turned(ring: np.ndarray, degrees: float) -> np.ndarray:
    """An outline turned around its middle, clockwise as it is seen."""
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    middle = (ring.min(0) + ring.max(0)) / 2
    return middle + (ring - middle) @ np.array([[cosine, sine], [-sine, cosine]])


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value[:8] if isinstance(value, (list, str)) else value)
    return text if len(text) <= 60 else f'{text[:60]}…'
