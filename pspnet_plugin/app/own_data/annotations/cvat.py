"""CVAT for images, XML 1.1: https://docs.cvat.ai/docs/other/xml_format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from ...images.sources import files_at
from ..division import side_of_name
from .shapes import (
    AnnotationError,
    Annotations,
    ImageFiles,
    Runs,
    Shape,
    ellipse,
    label_of,
    rectangle,
    ring_of,
    shown,
    turned,
)

START = 2000  # bytes of a file that are looked at
WITHOUT_AREA = ('polyline', 'points', 'tag', 'skeleton', 'cuboid')


def cvat_files(where: Path, images: ImageFiles) -> list[Path]:
    """CVAT's files at a path."""
    return [file for file in files_at(where, '.xml') if is_cvat(file)]


def is_cvat(file: Path) -> bool:
    with file.open('rb') as opened:
        return b'<annotations' in opened.read(START)


def read_cvat(where: Path, files: Sequence[Path], images: ImageFiles) -> Annotations:
    """The shapes of all files; the labels are in the order of the task."""
    found = Annotations()
    for file in files:
        with found.noting(str(file)):
            root = load_xml(file)
            if root.find('track') is not None:
                raise AnnotationError('has tracks of a video; export "CVAT for images 1.1"')
            labels = [label_of(name.text) for name in root.iterfind('meta//labels/label/name')]
            for label in labels:
                found.add_label(label)
            for entry in root.iterfind('image'):
                with found.noting(f'{file}: image {entry.get("name")}'):
                    read_image(entry, labels, images, file, found)
    return found


def read_image(
    entry: Element, labels: list[str], images: ImageFiles, file: Path, found: Annotations
) -> None:
    """Add one image with its shapes."""
    path = images.find(entry.get('name'), file)
    size = (int(number(entry, 'width')), int(number(entry, 'height')))
    image = found.add_image(path, *size, side_of_name(entry.get('subset', '')))
    for part in entry:
        with found.noting(f'{file}: image {entry.get("name")}: {part.tag}'):
            if part.tag in WITHOUT_AREA:
                found.without_area.append(f'{part.tag} {part.get("label")} in {path}')
                continue
            label = label_of(part.get('label'))
            if labels and label not in labels:
                raise AnnotationError(f'the label {label!r} is none of the task')
            shape = shape_of(part, found.add_label(label))
            image.shapes.append(shape._replace(layer=int(number(part, 'z_order', 0))))


def shape_of(part: Element, label: str) -> Shape:
    """A polygon, a box, an ellipse or a mask."""
    if part.tag == 'polygon':
        points = (point.split(',') for point in part.get('points', '').split(';'))
        try:
            return Shape(label, [ring_of([[float(word) for word in point] for point in points])])
        except ValueError as error:
            raise AnnotationError(f'the points {shown(part.get("points"))}: {error}') from error
    if part.tag == 'box':
        ring = rectangle(*(number(part, key) for key in ('xtl', 'ytl', 'xbr', 'ybr')))
    elif part.tag == 'ellipse':
        ring = ellipse(*(number(part, key) for key in ('cx', 'cy', 'rx', 'ry')))
    elif part.tag == 'mask':
        return Shape(label, runs=runs_of(part))
    else:
        raise AnnotationError('shapes of this kind are not known')
    return Shape(label, [turned(ring, number(part, 'rotation', 0))])


def runs_of(part: Element) -> Runs:
    """The run lengths of a mask, along the rows of the rectangle around it."""
    left, top, width, height = (
        int(number(part, key)) for key in ('left', 'top', 'width', 'height')
    )
    text = part.get('rle', '')
    words = text.replace(',', ' ').split()
    if not all(word.isdecimal() for word in words):
        raise AnnotationError(f'the RLE is none: {shown(text)}')
    lengths = np.array(words, np.int64)
    if width < 0 or height < 0 or lengths.sum() != width * height:
        raise AnnotationError(f'the RLE does not fill {height} x {width} pixels: {shown(text)}')
    return Runs(lengths, (height, width), (top, left))


def number(part: Element, key: str, default: float | None = None) -> float:
    """A finite number that an element has as its attribute."""
    text = part.get(key)
    if text is None and default is not None:
        return default
    try:
        value = float(text or '')
    except ValueError:
        value = np.nan
    if not abs(value) < 1e6:
        raise AnnotationError(f'{key} is {text!r}, no number of pixels')
    return value


def load_xml(file: Path) -> Element:
    """The root of an XML file without a document type, whose entities can fill any memory.

    Raises:
        AnnotationError: it is cut, or no XML, or has a document type.
    """

    def refuse_type(*_: object) -> None:
        raise AnnotationError('has a document type (<!DOCTYPE>), which no annotations need')

    builder, parser = TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse_type
    try:
        parser.Parse(file.read_bytes(), True)
    except (OSError, LookupError, ValueError, expat.ExpatError) as error:  # or another encoding
        raise AnnotationError(f'is cut or no XML ({error})') from error
    return builder.close()
