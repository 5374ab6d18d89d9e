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


def shared_classes(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs (our row, their row) of the classes whose names both have.

    Case, spaces, hyphens and underscores make no difference.
    """
    row = {plain_name(name): index for index, name in reversed(list(enumerate(theirs)))}
    return [
        (index, row[plain_name(name)]) for index, name in enumerate(ours) if plain_name(name) in row
    ]


def plain_name(name: str) -> str:
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


def both_class_names(
    ours: Sequence[str] | None, meta: Mapping[str, Any], our_rows: int, their_rows: int
) -> tuple[list[str], list[str]]:
    """The class names of the module and of a checkpoint, one for each row of their classifiers.

    Raises:
        PretrainedWeightsError: one side has none, or another number of them.
    """
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
