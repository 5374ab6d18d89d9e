"""The formats of annotation tools, and which of them a folder holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ...images.sources import files_at
from .coco import read_coco
from .cvat import cvat_files, read_cvat
from .labelme import read_labelme
from .shapes import AnnotationError, Annotations, ImageFiles, load_json
from .yolo import read_yolo, yolo_files


class Format(NamedTuple):
    """What one tool writes."""

    name: str  # as a person says it
    # The files of this format at a path, a file or a folder; none where it is another.
    files: Callable[[Path, ImageFiles], list[Path]]
    read: Callable[[Path, Sequence[Path], ImageFiles], Annotations]
    order: str = 'it comes later in the file'  # why a shape lies on top of another


def json_files_with(where: Path, images: ImageFiles, keys: Sequence[str]) -> list[Path]:
    """The JSON files at a path, a file or a folder, that have all these keys somewhere.

    Where there are some, files that are cut or no JSON are listed too: they may have been such.
    """
    files = files_at(where, '.json')
    found = {file for file in files if has_keys(file, keys)}
    return [file for file in files if file in found or is_broken(file)] if found else []


def has_keys(file: Path, keys: Sequence[str]) -> bool:
    content = file.read_bytes()
    return all(f'"{key}"'.encode() in content for key in keys)


def is_broken(file: Path) -> bool:
    """Whether a file is cut or no JSON."""
    try:
        load_json(file)
    except AnnotationError:
        return True
    return False


# Keys by which their files are told from other JSON.
OF_COCO, OF_LABELME = ('images', 'annotations', 'categories'), ('shapes', 'imagePath')
FORMATS = {
    'coco': Format('COCO JSON', partial(json_files_with, keys=OF_COCO), read_coco),
    'labelme': Format('labelme JSON', partial(json_files_with, keys=OF_LABELME), read_labelme),
    'cvat': Format(
        'CVAT for images (XML)',
        cvat_files,
        read_cvat,
        'its z_order is higher, or it comes later in the file',
    ),
    'yolo': Format('YOLO segmentation', yolo_files, read_yolo),
}
