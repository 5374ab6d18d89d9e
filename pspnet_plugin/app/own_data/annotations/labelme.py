"""labelme's JSON, a file for each image: https://github.com/wkentaro/labelme."""

from __future__ import annotations

import base64
import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .shapes import (
    AnnotationError,
    Annotations,
    ImageFiles,
    Runs,
    Shape,
    ellipse,
    field,
    label_of,
    load_json,
    numbers,
    rectangle,
    ring_of,
    shown,
)

WITHOUT_AREA = ('line', 'linestrip', 'point', 'points')


def read_labelme(where: Path, files: Sequence[Path], images: ImageFiles) -> Annotations:
    """The shapes of all files; the labels are in the order of the alphabet.

    Shapes of one ``group_id`` are parts of one object: all of them belong to its class.
    """
    found = Annotations()
    for file in files:
        with found.noting(str(file)):
            content = load_json(file)
            path = image_of(file, content, images)
            size = content.get('imageWidth'), content.get('imageHeight')
            image = found.add_image(path, *size, None)
            for number, entry in enumerate(field(content, 'shapes', list)):
                with found.noting(f'{file}: shape {number}'):
                    label = label_of(field(entry, 'label', str))
                    kind = entry.get('shape_type') or 'polygon'
                    if kind in WITHOUT_AREA:
                        found.without_area.append(f'{kind} {label} in {file}')
                        continue
                    image.shapes.append(shape_of(found.add_label(label), kind, entry))
    found.labels.sort()
    return found


def image_of(file: Path, content: Any, images: ImageFiles) -> Path:
    """The image that a file names, also where the file was moved since."""
    name = field(content, 'imagePath', str)
    try:
        return images.find(name, file)
    except AnnotationError:
        inside = posixpath.basename(name.replace('\\', '/'))
        if Path(inside).stem != file.stem:
            raise
        return images.find(inside, file)


def shape_of(label: str, kind: Any, entry: dict) -> Shape:
    """A polygon, a rectangle, a circle or a mask."""
    points = field(entry, 'points', list)
    if kind in ('polygon', 'oriented_rectangle'):
        return Shape(label, [ring_of(points)])
    if kind not in ('rectangle', 'circle', 'mask'):
        raise AnnotationError(f'shapes of the type {kind!r} are not known')
    corners = numbers(points)
    if corners.shape != (2, 2):
        raise AnnotationError(f'a {kind} needs two points, here are {shown(points)}')
    if kind == 'rectangle':
        return Shape(label, [rectangle(*corners.min(0), *corners.max(0))])
    if kind == 'circle':
        radius = float(np.linalg.norm(corners[1] - corners[0]))
        x, y = corners[0].tolist()
        return Shape(label, [ellipse(x, y, radius, radius)])
    column, row = corners[0].astype(int).tolist()
    return Shape(label, runs=runs_of(field(entry, 'mask', str), (row, column)))


def runs_of(text: str, corner: tuple[int, int]) -> Runs:
    """The runs of a mask that is a PNG file in base64."""
    try:
        content = np.frombuffer(base64.b64decode(text), np.uint8)
        mask = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)
    except (ValueError, cv2.error):
        mask = None
    if mask is None:
        raise AnnotationError(f'the mask is no PNG in base64: {shown(text)}')
    changes = np.flatnonzero(np.diff(mask.ravel() > 0, prepend=False))
    return Runs(np.diff([0, *changes.tolist(), mask.size]), mask.shape[:2], corner)
