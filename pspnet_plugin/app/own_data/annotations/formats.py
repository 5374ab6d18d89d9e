"""The formats of annotation tools, and which of them a folder holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .coco import coco_files, read_coco
from .cvat import cvat_files, read_cvat
from .labelme import labelme_files, read_labelme
from .shapes import Annotations, ImageFiles
from .yolo import read_yolo, yolo_files


class Format(NamedTuple):
    """What one tool writes."""

    name: str  # as a person says it
    # The files of this format at a path, a file or a folder; none where it is another.
    files: Callable[[Path, ImageFiles], list[Path]]
    read: Callable[[Path, Sequence[Path], ImageFiles], Annotations]
    order: str = 'it comes later in the file'  # why a shape lies on top of another


FORMATS = {
    'coco': Format('COCO JSON', coco_files, read_coco),
    'labelme': Format('labelme JSON', labelme_files, read_labelme),
    'cvat': Format(
        'CVAT for images (XML)',
        cvat_files,
        read_cvat,
        'its z_order is higher, or it comes later in the file',
    ),
    'yolo': Format('YOLO segmentation', yolo_files, read_yolo),
}
