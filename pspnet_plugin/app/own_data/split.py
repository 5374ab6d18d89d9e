"""Which images validate: a fifth, every class among them, no near-duplicate on both sides."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from .scan import Look, Value

VALIDATION_SHARE = 0.2
# Mean difference of two thumbnails, 0 to 1, below which two images show the same.
SAME = 0.02


def groups_of_duplicates(looks: Sequence[Look]) -> list[list[int]]:
    """The numbers of the looks, those of near-duplicates together, in order of their first."""
    thumbnails = np.stack([look.thumbnail.ravel() for look in looks])
    first = list(range(len(looks)))

    def root(number: int) -> int:
        while first[number] != number:
            number = first[number]
        return number

    for number, thumbnail in enumerate(thumbnails):
        differences = np.abs(thumbnails[number + 1 :] - thumbnail).mean(1)
        for other in np.flatnonzero(differences < SAME) + number + 1:
            one, two = sorted((root(number), root(int(other))))
            first[two] = one
    groups: dict[int, list[int]] = {}
    for number in range(len(looks)):
        groups.setdefault(root(number), []).append(number)
    return list(groups.values())


def split(looks: Sequence[Look], values: Sequence[Value], seed: int = 0) -> tuple[list, list]:
    """Training and validation looks.

    Groups of near-duplicates stay together. A class that two groups have is on both sides; one that
    a single group has is in training.

    Args:
        values: those of the classes in the masks.
        seed: of the order in which groups are taken.
    """
    groups = groups_of_duplicates(looks)
    random.Random(seed).shuffle(groups)
    wanted = max(1, round(VALIDATION_SHARE * len(looks)))
    having = {
        value: [g for g, group in enumerate(groups) if any(looks[n].values[value] for n in group)]
        for value in values
    }
    chosen: set[int] = set()

    def can_leave(group: int) -> bool:
        """Whether every class of a group has another one in training."""
        return all(
            set(with_it) - chosen - {group} for with_it in having.values() if group in with_it
        )

    for with_it in sorted(having.values(), key=len):  # the rarest class first
        fitting = [group for group in with_it if can_leave(group)]
        if fitting and not chosen & set(with_it):
            chosen.add(min(fitting, key=lambda group: len(groups[group])))
    for group, members in enumerate(groups):
        taken = sum(len(groups[g]) for g in chosen)
        if group not in chosen and taken + len(members) <= wanted and can_leave(group):
            chosen.add(group)
    validating = {number for group in chosen for number in groups[group]}
    return (
        [look for number, look in enumerate(looks) if number not in validating],
        [look for number, look in enumerate(looks) if number in validating],
    )
