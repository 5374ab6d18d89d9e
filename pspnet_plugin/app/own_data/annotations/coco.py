"""COCO JSON: https://cocodataset.org/#format-data, as Roboflow, CVAT, Label Studio … write it.

pycocotools, an extension in C, would read the files and the run lengths; these are a few lines, and
its outlines of polygons have no holes, so the tests compare with it and the package does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..division import side_of_name
from .shapes import (
    AnnotatedImage,
    AnnotationError,
    Annotations,
    ImageFiles,
    Runs,
    Shape,
    field,
    label_of,
    load_json,
    numbers,
    ring_of,
    shown,
)


def read_coco(where: Path, files: Sequence[Path], images: ImageFiles) -> Annotations:
    """The shapes of all files; categories of the same name are one class."""
    found = Annotations()
    for file in files:
        with found.noting(str(file)):
            read_file(file, images, found)
    return found


def read_file(file: Path, images: ImageFiles, found: Annotations) -> None:
    """Add the images and shapes of one file."""
    content = load_json(file)
    listed: dict[Any, AnnotatedImage | None] = {}
    for entry in field(content, 'images', list):
        with found.noting(f'{file}: image {name_of(entry)}'):
            number = field(entry, 'id', int, str)
            if number in listed:
                raise AnnotationError('another image has this id')
            listed[number] = None  # until the image is known to be there
            path = images.find(entry.get('file_name'), file)
            size = entry.get('width'), entry.get('height')
            listed[number] = found.add_image(path, *size, side_of_name(file.stem))
    annotations = field(content, 'annotations', list)
    labels = read_categories(file, content, annotations, found)
    for entry in annotations:
        with found.noting(f'{file}: annotation {name_of(entry)}'):
            number, category = field(entry, 'image_id', int, str), entry.get('category_id')
            if number not in listed:
                raise AnnotationError(f'no image has the id {number!r}')
            if not isinstance(category, (int, str)) or category not in labels:
                raise AnnotationError(f'no category has the id {category!r}')
            image = listed[number]
            if image is not None:  # what was wrong with it is noted above
                shape = shape_of(labels[category], entry.get('segmentation'), image.size)
                image.shapes.append(shape)


def read_categories(
    file: Path, content: Any, annotations: list, found: Annotations
) -> dict[Any, str]:
    """The labels by their ids, all of them known to ``found`` in the order of the ids.

    A category without annotations that others have as their supercategory is none: Roboflow's
    export has such a one.
    """
    entries = field(content, 'categories', list)
    used = {str(entry.get('category_id')) for entry in annotations if isinstance(entry, dict)}
    above = {
        str(entry.get('supercategory'))
        for entry in entries
        if isinstance(entry, dict) and entry.get('supercategory') != entry.get('name')
    }
    labels: dict[Any, str] = {}
    for entry in entries:
        with found.noting(f'{file}: category {name_of(entry)}'):
            number = field(entry, 'id', int, str)
            if number in labels:
                raise AnnotationError('another category has this id')
            if str(number) in used or str(entry.get('name')) not in above:
                labels[number] = label_of(entry.get('name'))
    for _, label in sorted(labels.items(), key=lambda item: (isinstance(item[0], str), item[0])):
        found.add_label(label)
    return labels


def name_of(entry: Any) -> str:
    """What a message calls an entry of a list: its id, where it has one."""
    return shown(entry.get('id') if isinstance(entry, dict) else entry)


def shape_of(label: str, segmentation: Any, size: tuple[int, int]) -> Shape:
    """A shape by its polygons or by its run lengths."""
    if isinstance(segmentation, dict):
        return Shape(label, runs=runs_of(segmentation, size))
    if not isinstance(segmentation, list) or not segmentation:
        raise AnnotationError(f'the segmentation is {shown(segmentation)}: no polygon, no RLE')
    return Shape(label, [ring_of(ring) for ring in segmentation])


def runs_of(segmentation: dict, size: tuple[int, int]) -> Runs:
    """Run lengths, of which the compressed ones are a text."""
    counts, stated = segmentation.get('counts'), segmentation.get('size')
    if stated != list(size):
        raise AnnotationError(f'the RLE has the size {shown(stated)}, the image {list(size)}')
    if isinstance(counts, str):
        lengths = decode_counts(counts)
    else:
        lengths = numbers(counts, largest=size[0] * size[1]).astype(int)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != size[0] * size[1]:
        told = f'{size[0]} x {size[1]} pixels: {shown(counts)}'
        raise AnnotationError(f'the RLE does not fill {told}')
    return Runs(lengths, size, by_column=True)


def decode_counts(text: str) -> np.ndarray:
    """The run lengths in a compressed RLE.

    Each has one or more characters of six bits, 48 added: five bits of the number, the lowest
    first, and 32 where more follow; the highest of all the bits is the sign. From the fourth number
    on, they are differences to the number before the last.
    """
    codes = np.frombuffer(text.encode('utf-8'), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero((codes & 32) == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if not len(last) or last[-1] != len(codes) - 1 or (last - first).max() > 7 or codes.min() < 0:
        raise AnnotationError(f'the RLE is cut or none: {shown(text)}')
    shifts = 5 * (np.arange(len(codes)) - np.repeat(first, last - first + 1))
    values = np.add.reduceat((codes & 31) << shifts, first)
    values -= np.where(codes[last] & 16, np.int64(1) << (shifts[last] + 5), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values
