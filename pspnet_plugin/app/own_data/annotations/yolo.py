"""YOLO segmentation: a text file for each image, and a YAML file with the names of the classes.

A line has the number of a class and the points of one polygon, as parts of width and height.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .shapes import AnnotationError, Annotations, ImageFiles, Shape, label_of, ring_of, shown

BEYOND = 2  # so far out of an image no part of a shape in it reaches


def yolo_files(where: Path, images: ImageFiles) -> list[Path]:
    """YAML files with a line ``names:``, where there are labels of the images too.

    They lie in the first of the folders, or right above, with such.
    """
    if not where.is_dir() or not any(label_file(where, name) for name in images.paths):
        return []
    for folder in (where, where.parent, images.folder, images.folder.parent):
        files = sorted((*folder.glob('*.yaml'), *folder.glob('*.yml')))
        if found := [file for file in files if b'names:' in file.read_bytes()]:
            return found
    return []


def label_file(where: Path, name: str) -> Path | None:
    """The labels of an image: ``labels/a/b.txt`` for ``images/a/b.jpg``, or of the same name."""
    below = Path(name).with_suffix('.txt')
    parts = ['labels' if part == 'images' else part for part in below.parts]
    for path in (where / Path(*parts), where / below, where / 'labels' / below):
        if path.is_file():
            return path
    return None


def read_yolo(where: Path, files: Sequence[Path], images: ImageFiles) -> Annotations:
    """The shapes of all images; one without a file has none, as YOLO has it."""
    found = Annotations()
    for file in files:
        with found.noting(str(file)):
            names = read_names(file)
            found.labels = found.labels or names
            if names != found.labels:
                raise AnnotationError(f'has other names than {files[0]}; keep one of them there')
    used: set[Path | None] = set()
    for name, path in images.paths.items() if found.labels else ():
        labels = label_file(where, name)
        used.add(labels)
        with found.noting(str(labels or path)):
            image = found.add_image(path, None, None, None)
            for number, words in enumerate(read_lines(labels) if labels else [], 1):
                with found.noting(f'{labels}: line {number}'):
                    if words:
                        scale = np.array(image.size[::-1])
                        image.shapes.append(shape_of(words, found.labels, scale))
    for folder in sorted({file.parent for file in used if file}):
        for file in sorted({*folder.glob('*.txt')} - used):
            with found.noting(str(file)):
                if any(len(words) > 6 and words[0].isdecimal() for words in read_lines(file)):
                    raise AnnotationError('has polygons, but there is no image of this name')
    return found


def read_names(file: Path) -> list[str]:
    """The names of the classes, a list or a table by their numbers."""
    try:
        content: Any = yaml.safe_load(file.read_bytes())
        names: Any = content['names']
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, RecursionError) as error:
        told = ' '.join(str(error).split())
        raise AnnotationError(f'is no YAML with names ({told})') from error
    if content.get('kpt_shape'):  # their boxes and keypoints would be drawn as polygons
        raise AnnotationError('has keypoints (kpt_shape), of which no masks can be made')
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise AnnotationError(f'the names are {shown(names)}, neither a list nor numbered from 0')
    labels = [label_of(name if isinstance(name, str) else str(name)) for name in names]
    if len(set(labels)) < len(labels):
        raise AnnotationError(f'two classes have the same name: {shown(labels)}')
    return labels


def read_lines(file: Path) -> list[list[str]]:
    """The words of each line."""
    try:
        return [line.split() for line in file.read_text(encoding='utf-8').splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f'is no text ({error})') from error


def shape_of(words: list[str], labels: list[str], scale: np.ndarray) -> Shape:
    """The polygon of one line."""
    if not words[0].isdecimal() or int(words[0]) >= len(labels):
        raise AnnotationError(f'no class has the number {words[0]}; there are {len(labels)}')
    if len(words) == 5:
        raise AnnotationError('has four numbers, a box; a polygon has six or more')
    try:
        numbers = [float(word) for word in words[1:]]
    except ValueError as error:
        raise AnnotationError(f'{shown(words[1:])} are no coordinates') from error
    if any(abs(number) >= BEYOND for number in numbers):
        told = 'are pixels or keypoints; coordinates are parts of width and height, 0 to 1'
        raise AnnotationError(f'{shown(words[1:])} {told}')
    return Shape(labels[int(words[0])], [ring_of(numbers) * scale])
