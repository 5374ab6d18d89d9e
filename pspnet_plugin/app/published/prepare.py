"""From the archives of a dataset to ``img_dir`` and ``ann_dir``, the layout of MMSegmentation."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from rich.progress import track

from ...utils.files import write_whole
from ..errors import DataError
from .archive import open_archives
from .dataset import LabelledImage, PublishedDataset

JOURNAL = 'prepared.jsonl'


class Prepared(NamedTuple):
    """What :func:`prepare` made."""

    images: Counter  # how many there are in each split, those of earlier calls included
    problems: list[str]  # a line for each that was left out
    warnings: list[str]  # what differs from the published dataset


def prepare(dataset: PublishedDataset, archives: Sequence[Path], out: Path) -> Prepared:
    """Write the images and label maps of a dataset, each file whole or not at all.

    ``out/prepared.jsonl`` names the dataset and, in a line each, what has been written; a second
    call goes on there.

    Raises:
        DataError: the archives cannot be read, or hold nothing of this dataset; or there are images
            in ``out`` that were not made here, or are another dataset's.
    """
    problems: list[str] = []
    require_own_folder(archives, out, dataset.title)
    scratch = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    with open_archives(archives, scratch) as members:
        images = dataset.find_images(members)
        if not images:
            named = ', '.join(map(str, archives))
            raise DataError(
                f'{named}: no images with labels of {dataset.title} in it; name {dataset.archives}'
            )
        out.mkdir(parents=True, exist_ok=True)
        with open(out / JOURNAL, 'a', encoding='utf-8') as journal:
            if not journal.tell():
                journal.write(f'{dataset.title}\n')
        done = read_journal(out, dataset.suffix)
        missing = [image for image in images if image.name not in done]
        for image in track(missing, f'preparing {out}', transient=True):
            try:
                done[image.name] = image.split, write_image(image, out, dataset.suffix)
            except DataError as error:
                problems.append(str(error))
    counts = Counter(split for split, _ in done.values())
    pieces = Counter(split for split, names in done.values() for _ in names)
    return Prepared(pieces, problems, differences(dataset, counts))


def require_own_folder(archives: Sequence[Path], out: Path, title: str) -> None:
    """Raise DataError where ``out`` is read, or has images of no earlier call for this dataset."""
    for archive in archives:
        if archive.is_dir() and archive.resolve() in (out.resolve(), *out.resolve().parents):
            raise DataError(f'{out}: lies in {archive}, which is read; name another --out')
    there = [out / name for name in ('img_dir', 'ann_dir') if (out / name).exists()]
    if there and not (out / JOURNAL).is_file():
        raise DataError(f'{there[0]}: is there already, and not from here; name another --out')
    begun = journal_lines(out)[:1]
    if begun not in ([], [title]):
        raise DataError(f'{out}: was prepared for {begun[0]}, not {title}; name another --out')


def write_image(image: LabelledImage, out: Path, suffix: str) -> list[str]:
    """Write all pieces of an image, or none, and a line of the journal; the names of the pieces."""
    pieces = list(image.read())  # raises DataError
    for piece in pieces:
        files = files_of(out, image.split, piece.name, suffix)
        for path, content in zip(files, (piece.image, piece.label_map)):
            with write_whole(path, 'wb') as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    Image.fromarray(np.ascontiguousarray(content)).save(file, 'PNG')
    names = [piece.name for piece in pieces]
    with open(out / JOURNAL, 'a', encoding='utf-8') as journal:
        journal.write(f'{json.dumps([image.name, image.split, names])}\n')
    return names


def journal_lines(out: Path) -> list[str]:
    journal = out / JOURNAL
    return journal.read_text(encoding='utf-8').splitlines() if journal.is_file() else []


def read_journal(out: Path, suffix: str) -> dict[str, tuple[str, list[str]]]:
    """Images whose files are all there -> their split and the names of their pieces."""
    found = {}
    for line in journal_lines(out)[1:]:
        try:
            image, split, names = json.loads(line)
        except ValueError:  # the process was killed while it wrote the line
            continue
        files = [file for name in names for file in files_of(out, split, name, suffix)]
        if all(file.is_file() for file in files):
            found[image] = split, names
    return found


def files_of(out: Path, split: str, name: str, suffix: str) -> tuple[Path, Path]:
    """Where the image and the label map of a piece are written."""
    return out / 'img_dir' / split / f'{name}{suffix}', out / 'ann_dir' / split / f'{name}.png'


def differences(dataset: PublishedDataset, counts: Counter) -> list[str]:
    """Lines for the splits that have another number of images than was published."""
    found = {name: sum(counts[split] for split in name.split(' + ')) for name in dataset.published}
    return [
        f'{name}: found {found[name]}, but {dataset.title} was published with {number}'
        for name, number in dataset.published.items()
        if found[name] != number
    ]
