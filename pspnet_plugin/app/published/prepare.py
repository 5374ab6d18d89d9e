"""From the archives of a dataset to ``img_dir`` and ``ann_dir``, the layout of MMSegmentation."""

from __future__ import annotations

import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import DataError
from .archive import opened
from .field import Field, Piece, Source

JOURNAL = 'prepared.jsonl'


class Prepared(NamedTuple):
    """What :func:`prepare` made.

    Attributes:
        images: how many there are in each split, those of earlier calls included.
        problems: a line for each that was left out.
        warnings: what differs from the published dataset.
    """

    images: Counter
    problems: list[str]
    warnings: list[str]


def prepare(
    field: Field,
    archives: Sequence[Path],
    out: Path,
    progress: Callable[[Sequence[Source]], Iterable[Source]] = lambda sources: sources,
) -> Prepared:
    """Write the images and label maps of a dataset, each file whole or not at all.

    A line in ``out/prepared.jsonl`` names what has been written, and a second call goes on there.

    Args:
        progress: wraps the sources, as ``rich.progress.track`` does.

    Raises:
        DataError: the archives cannot be read, or hold nothing of this dataset.
    """
    with opened(archives) as members:
        sources = field.sources(members)
        if not sources:
            named = ', '.join(map(str, archives))
            raise DataError(
                f'{named}: no images with labels of {field.title} in it; name {field.archives}'
            )
        out.mkdir(parents=True, exist_ok=True)
        done = read_journal(out, field.suffix)
        problems: list[str] = []
        for source in progress(sources):
            if source.name in done:
                continue
            try:
                pieces = list(source.read())  # nothing is written where one of them is wrong
            except DataError as error:
                problems.append(str(error))
                continue
            written = [write_piece(piece, source, field, out) for piece in pieces]
            done[source.name] = (source.split, written)
            with open(out / JOURNAL, 'a', encoding='utf-8') as journal:
                journal.write(f'{json.dumps([source.name, source.split, written])}\n')
    counts = Counter(split for split, _ in done.values())
    images = Counter(split for split, names in done.values() for _ in names)
    return Prepared(images, problems, differences(field, counts))


def read_journal(out: Path, suffix: str) -> dict[str, tuple[str, list[str]]]:
    """Sources whose files are all there -> their split and the names of their pieces."""
    found = {}
    journal = out / JOURNAL
    lines = journal.read_text(encoding='utf-8').splitlines() if journal.is_file() else []
    for line in lines:
        try:
            source, split, names = json.loads(line)
        except ValueError:  # the process was killed while it wrote the line
            continue
        files = [file for name in names for file in files_of(out, split, name, suffix)]
        if all(file.is_file() for file in files):
            found[source] = (split, names)
    return found


def files_of(out: Path, split: str, name: str, suffix: str) -> tuple[Path, Path]:
    """Where the image and the label map of a piece are written."""
    return out / 'img_dir' / split / f'{name}{suffix}', out / 'ann_dir' / split / f'{name}.png'


def write_piece(piece: Piece, source: Source, field: Field, out: Path) -> str:
    """Write an image and its label map; the name of both."""
    image, labels = files_of(out, source.split, piece.name, field.suffix)
    write_whole(image, piece.image if isinstance(piece.image, bytes) else as_png(piece.image))
    write_whole(labels, as_png(piece.label_map))
    return piece.name


def as_png(array: np.ndarray) -> bytes:
    """Pixels as the content of a PNG file."""
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(content, 'PNG')
    return content.getvalue()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it is never there in part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    part.write_bytes(content)
    os.replace(part, path)


def differences(field: Field, counts: Counter) -> list[str]:
    """Lines for the splits that have another number of images than was published."""
    found = {name: sum(counts[split] for split in name.split(' + ')) for name in field.published}
    return [
        f'{name}: found {found[name]}, but {field.title} was published with {number}'
        for name, number in field.published.items()
        if found[name] != number
    ]
