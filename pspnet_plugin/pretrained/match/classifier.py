"""The classifier of a segmentation model that was trained on other classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import PretrainedWeightsError

# Every decode head of MMSegmentation keeps its classifier under this name.
CLASSIFIER = re.compile(r'(?:^|\.)conv_seg\.(?:weight|bias)$')


def differs_in_classes_only(name: str, value: Tensor, ours: Tensor) -> bool:
    """Whether two tensors of a classifier, one row per class, have all but that in common."""
    alike = value.dim() == ours.dim() and value.shape[1:] == ours.shape[1:]
    return alike and CLASSIFIER.search(name) is not None


def rows_by_name(
    ours: Sequence[str] | None, meta: Mapping[str, Any], our_rows: int, their_rows: int
) -> tuple[list[int], list[int]]:
    """The rows of the classes that a module and a checkpoint both have, in either of them.

    Case, spaces, hyphens and underscores in the names make no difference. Both sides must have as
    many class names as rows.
    """
    theirs = classes_in_meta(meta)
    _require_names(ours, our_rows, theirs, their_rows)
    place = {_plain(name): index for index, name in reversed(list(enumerate(theirs)))}
    shared = {row: place[_plain(n)] for row, n in enumerate(ours or ()) if _plain(n) in place}
    return list(shared), list(shared.values())


def _plain(name: str) -> str:
    """A class name without what datasets write differently."""
    return re.sub(r'[\s_-]+', ' ', name).strip().casefold()


def classes_in_meta(meta: Mapping[str, Any]) -> list[str]:
    """The class names that MMSegmentation stored in a checkpoint's ``meta``; empty without any."""
    dataset_meta = meta.get('dataset_meta')
    of_dataset = dataset_meta if isinstance(dataset_meta, Mapping) else {}
    names = of_dataset.get('classes') or of_dataset.get('CLASSES') or meta.get('CLASSES') or ()
    return [str(name) for name in names]


def _require_names(
    ours: Sequence[str] | None, our_rows: int, theirs: Sequence[str], their_rows: int
) -> None:
    if not ours:
        raise PretrainedWeightsError(
            "classes='by_name' needs the class names of the module: say class_names=[...]. Where "
            'they are left out, PretrainedBackboneHook takes those of the training dataset, if its '
            'metainfo has classes.'
        )
    if not theirs:
        raise PretrainedWeightsError(
            "classes='by_name': the checkpoint does not tell its class names (meta.dataset_meta"
            '.classes). Leave classes=None to start the classifier from its initialization.'
        )
    for names, rows, whose in ((ours, our_rows, 'module'), (theirs, their_rows, 'file')):
        if len(names) != rows:
            raise PretrainedWeightsError(
                f"classes='by_name': {len(names)} class names for the {rows} classes of the "
                f'{whose} ({", ".join(map(str, names[:5]))}). Correct class_names, or leave '
                'classes=None to go by shapes, also for a classifier of one row (out_channels=1).'
            )
