"""The files of each source in the folder of results, and the record of what they were made from."""

from __future__ import annotations

import contextlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pooch

from ...errors import ImageError, PredictionError
from ...utils.files import replaced_when_whole, write_whole
from ...utils.rasters import Raster, rasterio
from ..images.reading import is_address
from ..images.sources import ImageSource
from .predictor import PredictOptions

# What is written for each kind of source, by folder.
SUFFIXES = {
    'image': {'labels': '.png', 'overlays': '.jpg', 'probabilities': '.tif'},
    'raster': {'labels': '.tif', 'probabilities': '.tif'},
    'video': {'overlays': '.mp4', 'frames': '.csv'},
}
RECORDS = 'sources'  # the folder of the records
FOLDERS = {RECORDS, *(folder for suffixes in SUFFIXES.values() for folder in suffixes)}


@dataclass(frozen=True)
class Job:
    """A source and its files in the folder of results.

    Attributes:
        kind: of :data:`SUFFIXES`.
        name: of its files below each folder, without a suffix.
        out: the folder of results.
        asked: the folders in which it gets a file.
    """

    source: ImageSource
    kind: str
    name: str
    out: Path
    asked: tuple[str, ...]

    def path(self, folder: str) -> Path:
        """Its file in one of the folders."""
        return self.out / folder / f'{self.name}{SUFFIXES[self.kind][folder]}'

    @property
    def record(self) -> Path:
        """The file that says what its files were made from, and what they are."""
        return self.out / RECORDS / f'{self.name}.json'

    @cached_property
    def stamp(self) -> list[list]:
        """Path, seen from the folder of results, size and time of each file that is read.

        Of an address size and time are unknown.

        Raises:
            ImageError: there is no such file any more.
        """
        name = self.source.name
        if is_address(name):
            return [[name, None, None]]
        paths = [name]
        if self.source.is_raster and rasterio is not None:
            # A .vrt names others; a world file or a mask lies beside its raster.
            with contextlib.suppress(ImageError), Raster(name) as raster:
                paths += [path for path in raster.file.files if os.path.isfile(path)]
        try:
            stats = [(path, os.stat(path)) for path in dict.fromkeys(paths)]
        except OSError as error:
            raise ImageError(name, f'cannot be read ({error}).') from error
        return [[os.path.relpath(path, self.out), s.st_size, s.st_mtime_ns] for path, s in stats]

    def earlier_shares(self) -> list[str] | None:
        """The shares of the classes from an earlier run; None where the source is to be predicted.

        What earlier runs left of another content of the source is removed then.

        Raises:
            ImageError: one of the files is that of another source or program.
        """
        # Another process writes the record first: of files that are there, it is there by now.
        there = [folder for folder in SUFFIXES[self.kind] if os.path.lexists(self.path(folder))]
        known = self.read_record()
        files, source = known.get('files', {}), known.get('source', self.stamp)
        ours = [folder for folder in there if folder in files or folder in self.asked]
        for folder in ours:
            if source[0][0] != self.stamp[0][0]:
                raise ImageError(
                    self.source.name,
                    f'{self.path(folder)} was predicted from {source[0][0]}. Predict them into two '
                    'folders.',
                )
            if files.get(folder) != pooch.file_hash(str(self.path(folder))):
                raise self.is_not_ours(self.path(folder))
        if known and source == self.stamp and source[0][1] is not None and {*self.asked} <= {*ours}:
            return known['shares']
        for folder in ours:
            self.path(folder).unlink(missing_ok=True)
        return None

    def read_record(self) -> dict[str, Any]:
        """``source``, ``files`` and ``shares`` of an earlier run; empty where there was none."""
        try:
            found = json.loads(self.record.read_text())
            return {name: found[name] for name in ('source', 'files', 'shares')}
        except FileNotFoundError:
            return {}
        except (ValueError, KeyError, TypeError) as error:
            raise self.is_not_ours(self.record) from error

    def is_not_ours(self, path: Path) -> ImageError:
        """The error for a file that another program has written or changed."""
        return ImageError(
            self.source.name,
            f'{path} is not as pspnet predict wrote it, and is not overwritten. Move it away, or '
            'name another folder.',
        )

    def write(self, fill: Callable[[dict[str, str]], list[str]]) -> list[str]:
        """Write the files and their record.

        Args:
            fill: writes unfinished files, whose names it gets by their folder, and returns the
                shares of the classes; the files get their own names afterwards.
        """
        with contextlib.ExitStack() as unfinished:
            # OpenCV tells from a name what kind of video is meant.
            suffix = '.part.mp4' if self.kind == 'video' else '.part'
            parts = {
                folder: unfinished.enter_context(replaced_when_whole(self.path(folder), suffix))
                for folder in self.asked
            }
            shares = fill(parts)
            files = {folder: pooch.file_hash(part) for folder, part in parts.items()}
            with write_whole(self.record, 'w') as file:
                json.dump({'source': self.stamp, 'files': files, 'shares': shares}, file, indent=1)
        return shares


def jobs_of(sources: Iterable[ImageSource], out: Path, options: PredictOptions) -> list[Job]:
    """A job for each source, below ``out`` folders keep their tree.

    Earlier results are none, where ``out`` lies in a folder of images.

    Raises:
        PredictionError: images that are named lie in ``out``, or two have one name there.
    """
    once = {source.name: source for source in sources}.values()
    sources = [source for source in once if not is_result(source, out)]
    jobs = []
    for source, name in zip(sources, output_names(sources)):
        in_windows = options.window is not None and source.is_raster
        kind = 'video' if source.is_video else 'raster' if in_windows else 'image'
        asked = [f for f in SUFFIXES[kind] if f != 'probabilities' or options.probabilities]
        jobs.append(Job(source, kind, name, out, tuple(asked)))
    return jobs


def is_result(source: ImageSource, out: Path) -> bool:
    """Whether it lies in ``out``; a PredictionError where the folder that was named does, too."""
    results = os.path.join(os.path.realpath(out), '')
    if is_address(source.name) or not os.path.realpath(source.name).startswith(results):
        return False
    named = Path(source.name).parents[len(source.relative_path.parts) - 1]
    if os.path.join(os.path.realpath(named), '').startswith(results):
        raise PredictionError(
            f'{source.name} lies in {out}, which gets the results: name another folder for these.'
        )
    return True


def output_names(sources: Sequence[ImageSource]) -> list[str]:
    """The relative path of each source without its suffix, or with it where two would be alike."""
    paths = [source.relative_path for source in sources]
    stems = [path.with_suffix('').as_posix() for path in paths]
    often = Counter(stems)
    names = [stem if often[stem] == 1 else path.as_posix() for stem, path in zip(stems, paths)]
    seen: dict[str, ImageSource] = {}
    for name, source in zip(names, sources):
        if name in seen:
            raise PredictionError(
                f'{seen[name].name} and {source.name} would both be written as {name}. Give the '
                'folder that both lie in, or predict them into two folders.'
            )
        seen[name] = source
    return names
