"""What a user calls images -> one source for each image."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

import numpy as np
from PIL import Image

from ...errors import PredictionError
from ...utils.rasters import SUFFIXES as RASTER_SUFFIXES
from .reading import is_address

IMAGE_SUFFIXES = frozenset(
    ['.bmp', '.jp2', '.jpeg', '.jpg', '.pbm', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp']
)
VIDEO_SUFFIXES = frozenset(['.avi', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg', '.webm'])


class ImageSource(NamedTuple):
    """One image, or one video."""

    name: str  # a path, an address, or ``image 3`` for pixels that have none
    item: Any  # the name, or the pixels
    relative_path: Path  # below the folder that was given; the name of its file otherwise

    @property
    def path(self) -> str | None:
        """The path or the address, None for pixels."""
        return self.name if isinstance(self.item, str) else None

    @property
    def is_video(self) -> bool:
        """Whether the name is that of a video file."""
        return self.path is not None and self.relative_path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def is_raster(self) -> bool:
        """Whether it is a file that GDAL reads in windows."""
        return self.path is not None and Path(self.path).suffix.lower() in RASTER_SUFFIXES


def sources_of(images: Any, suffixes: frozenset[str] = IMAGE_SUFFIXES) -> Iterator[ImageSource]:
    """The sources in one or many of: path, folder, glob, address, array, Pillow image, source.

    Folders are searched for files of these suffixes with all below them, in the order of names;
    hidden files are left out.

    Raises:
        PredictionError: there is no such file, or none in the folder; the value is no image.
    """
    many = isinstance(images, Iterable) and not isinstance(
        images, (str, os.PathLike, np.ndarray, Image.Image)
    )
    for number, item in enumerate(images if many else [images]):
        if isinstance(item, ImageSource):
            yield item
        elif isinstance(item, (np.ndarray, Image.Image)):
            yield ImageSource(f'image {number}', item, Path(f'{number:06}'))
        elif isinstance(item, (str, os.PathLike)):
            yield from _named(os.fspath(item), suffixes)
        else:
            raise PredictionError(
                f'{item!r} is no image: give paths, folders, globs, addresses, arrays (H, W, C) or '
                'Pillow images.'
            )


def _named(name: str, suffixes: frozenset[str]) -> Iterator[ImageSource]:
    if is_address(name):
        last = unquote(urlsplit(name).path).rstrip('/').rpartition('/')[2]
        yield ImageSource(name, name, Path(last or 'image'))
    elif os.path.isdir(name):
        found = list(files_below(Path(name), suffixes))
        if not found:
            raise PredictionError(f'{name} has no images ({" ".join(sorted(suffixes))}) in it.')
        for path in found:
            yield ImageSource(str(path), str(path), path.relative_to(name))
    elif os.path.exists(name):
        yield ImageSource(name, name, Path(Path(name).name))
    else:
        matches = sorted(matches_of(name))
        if not matches:
            raise PredictionError(f'There is no image, folder or match of {name}.')
        top = next(folder for folder in Path(name).parents if not glob.has_magic(str(folder)))
        for match in matches:
            yield ImageSource(match, match, Path(os.path.relpath(match, top)))


def matches_of(pattern: str) -> set[str]:
    """The files that a glob names; ``**`` are folders, each entered once, as by ``files_below``."""
    parts = Path(pattern).parts
    if '**' not in parts:
        return set(filter(os.path.isfile, glob.glob(pattern)))
    above, below = parts[: parts.index('**')], parts[parts.index('**') + 1 :] or ('*',)
    tops = filter(os.path.isdir, glob.glob(str(Path(*above))))
    folders = [glob.escape(folder) for top in tops for folder, _ in walk(top)]
    return {match for folder in folders for match in matches_of(str(Path(folder, *below)))}


def files_below(folder: Path, suffixes: frozenset[str]) -> Iterator[Path]:
    """The files in a folder and below it with one of these suffixes, without hidden ones.

    Links to folders are followed; one that leads to a folder which is entered anyway is not.

    Raises:
        PredictionError: a folder below it cannot be read.
    """
    paths = [Path(top, name) for top, names in walk(str(folder)) for name in names]
    for path in sorted(paths):
        hidden = path.name.startswith('.')
        if path.suffix.lower() in suffixes and not hidden and (path.is_file() or path.is_symlink()):
            yield path


def files_at(path: Path, suffix: str) -> list[Path]:
    """A file with this suffix, or those in a folder and below it."""
    files = [path] if path.is_file() else files_below(path, frozenset([suffix]))
    return [file for file in files if file.suffix.lower() == suffix]


def walk(top: str) -> Iterator[tuple[str, list[str]]]:
    """A folder and all below it that are not hidden, each once, with the names of their files."""

    def refuse(error: OSError) -> None:
        raise PredictionError(
            f'{error.filename} cannot be read: {error.strerror}. Change that, or name the folders '
            'beside it.'
        ) from error

    seen = {str(folder) for folder in Path(top).resolve().parents}  # no link leads up there
    waiting = [top]  # links come last, so that a folder has its own name where it has one
    while waiting:
        for folder, below, files in os.walk(waiting.pop(0), onerror=refuse):
            below[:] = sorted(name for name in below if not name.startswith('.'))
            if os.path.realpath(folder) in seen:
                below.clear()
                continue
            seen.add(os.path.realpath(folder))
            paths = [os.path.join(folder, name) for name in below]
            waiting += filter(os.path.islink, paths)
            yield folder, files
