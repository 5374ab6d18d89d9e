"""Images and label maps that cannot be read, during training and testing.

Wrong: of an empty image, or a label map that is cut or none, mmcv and mmseg raise what the decoder
does, which names no file; of an image that is none they raise an AssertionError.

Changed, while ``pspnet train`` or ``pspnet test`` runs: the loading of both raises an ImageError
that names the file, whatever the reason.

Unnecessary once mmcv and mmseg name the file.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from mmcv.transforms import LoadImageFromFile
from mmseg.datasets.transforms import LoadAnnotations

from ..errors import ImageError, PspnetPluginError
from ..utils.text import one_line


@contextlib.contextmanager
def files_named() -> Iterator[None]:
    """Within this context errors of loading an image or a label map name the file."""
    image = _naming('img_path', LoadImageFromFile.transform)
    labels = _naming('seg_map_path', LoadAnnotations._load_seg_map)
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(LoadImageFromFile, 'transform', image))
        stack.enter_context(mock.patch.object(LoadAnnotations, '_load_seg_map', labels))
        yield


def _naming(key: str, load: Callable) -> Callable:
    @functools.wraps(load)
    def load_or_name(self: Any, results: dict) -> Any:
        try:
            return load(self, results)
        except PspnetPluginError:
            raise
        except Exception as error:  # every decoder has its own
            reason = f'cannot be loaded ({one_line(error)}); pspnet check names all such files'
            raise ImageError(results[key], reason) from error

    return load_or_name
