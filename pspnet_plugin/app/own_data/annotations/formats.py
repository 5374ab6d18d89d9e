"""The formats of annotation tools, and which of them a folder holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from .coco import read_coco
from .cvat import cvat_files, read_cvat
from .json_files import json_files_with
from .labelme import read_labelme
from .shapes import Annotations, ImageFiles
from .yolo import read_yolo, yolo_files


class Format(NamedTuple):
    """What one tool writes."""

    name: str  # as a person says it
    # The files of this format at a path, a file or a folder; none where it is another.
    files: Callable[[Path, ImageFiles], list[Path]]
    read: Callable[[Path, Sequence[Path], ImageFiles], Annotations]
    order: str = 'it comes later in the file'  # why a shape lies on top of another


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
