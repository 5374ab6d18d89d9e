"""Figures of matplotlib -> files that a later figure may replace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image
from PIL.ExifTags import Base

from ...errors import PspnetPluginError
from ...utils.files import require_own, write_whole

MARK = 'atplotlib'  # which matplotlib writes into .png, .svg and .pdf itself
PHOTOS = ('jpg', 'jpeg', 'tif', 'tiff', 'webp')


def save(figure: Figure, path: Path) -> None:
    """Write an image, PNG without a suffix; PspnetPluginError for a format that is unknown."""
    require_own(path, MARK)
    kind = path.suffix[1:].lower() or 'png'
    exif = Image.Exif()
    exif[Base.Software] = f'M{MARK}'
    options: Any = {'pil_kwargs': {'exif': exif}} if kind in PHOTOS else {}
    try:
        with write_whole(path, 'wb') as file:
            figure.savefig(file, dpi=120, format=kind, **options)
    except ValueError as error:
        raise PspnetPluginError(f'{path} cannot be written: {error}') from error
