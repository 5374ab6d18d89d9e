"""The classifier of a segmentation model that was trained on other classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import PretrainedWeightsError

# Every decode head of MMSegmentation keeps its classifier under this name.
CLASSIFIER = re.compile(r'(?:^|\.)conv_seg\.(?:weight|bias)$')


def is_classifier(name: str) -> bool:
    """Whether a tensor of a model has one row per class."""
    return CLASSIFIER.search(name) is not None


def differs_in_classes_only(shape: Sequence[int], module_shape: Sequence[int]) -> bool:
    """Whether two classifier tensors have all but the number of rows in common."""
    return len(shape) == len(module_shape) and tuple(shape[1:]) == tuple(module_shape[1:])


def rows_by_name(
    ours: Sequence[str] | None, meta: Mapping[str, Any], our_rows: int, their_rows: int
) -> tuple[list[int], list[int], list[str]]:
    """The rows of the classes that a module and a checkpoint both have.

    Case, spaces, hyphens and underscores in the names make no difference.

    Args:
        ours: the class names of the module, in its order.
        meta: the ``meta`` entry of the checkpoint.
        our_rows: how many rows the classifier of the module has; ``their_rows``: the checkpoint's.

    Returns:
        The module's rows, the checkpoint's rows for them, and the names of these classes.

    Raises:
        PretrainedWeightsError: one side has no class names, or another number of them than rows.
    """
    ours, theirs = _both_class_names(ours, meta, our_rows, their_rows)
    place = {_plain(name): index for index, name in reversed(list(enumerate(theirs)))}
    shared = [(row, place[_plain(name)]) for row, name in enumerate(ours) if _plain(name) in place]
    rows = [row for row, _ in shared]
    return rows, [other for _, other in shared], [ours[row] for row in rows]


def _plain(name: str) -> str:
    """A class name without what datasets write differently."""
    return re.sub(r'[\s_-]+', ' ', name).strip().casefold()


def classes_in_meta(meta: Mapping[str, Any]) -> list[str] | None:
    """The class names that MMSegmentation stored in a checkpoint's ``meta``, None without any."""
    dataset_meta = meta.get('dataset_meta')
    of_dataset = dataset_meta if isinstance(dataset_meta, Mapping) else {}
    for names in (of_dataset.get('classes'), of_dataset.get('CLASSES'), meta.get('CLASSES')):
        if names:
            return [str(name) for name in names]
    return None


def _both_class_names(
    ours: Sequence[str] | None, meta: Mapping[str, Any], our_rows: int, their_rows: int
) -> tuple[list[str], list[str]]:
    theirs = classes_in_meta(meta)
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
            single = ' A classifier with out_channels=1 has no row for each class.' * (rows == 1)
            raise PretrainedWeightsError(
                f"classes='by_name': {len(names)} class names for the {rows} classes of the "
                f'{whose} ({", ".join(map(str, names[:5]))}).{single} Correct class_names, or '
                'leave classes=None to go by shapes.'
            )
    return list(ours), theirs
