"""What a published dataset says of itself, and how its images and labels are read and checked."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...errors import ImageError
from ...utils.text import shortened
from ..errors import DataError
from ..images.reading import require_whole
from .archive import Member, matching

UNKNOWN = 254  # no class of these datasets


class Piece(NamedTuple):
    """An image and its labels, as they are written."""

    name: str  # of both files, without a suffix
    # The content of an image file as it was published, or pixels: (H, W) or (H, W, 3) RGB, uint8
    # or uint16.
    image: bytes | np.ndarray
    label_map: np.ndarray  # (H, W) uint8


class LabelledImage(NamedTuple):
    """What was published as one image with its labels; large ones become several pieces."""

    name: str  # of the image, the same in every run
    split: str  # ``train``, ``val`` or ``test``
    read: Callable[[], Iterable[Piece]]  # reads and checks it; raises DataError


class PublishedDataset(NamedTuple):
    """A dataset as it was published."""

    title: str  # its name
    archives: str  # the files to name on the command line
    # How many images there are in each split, or in several such as ``train + val``.
    published: dict[str, int]
    # Finds them among the files of the archives.
    find_images: Callable[[Sequence[Member]], list[LabelledImage]]
    suffix: str = '.png'  # of the images that are written


def pairs(
    images: str,
    labels: str,
    split_of: Callable[..., str],
    read: Callable[[str, Member, Member], Iterable[Piece]],
) -> Callable[[Sequence[Member]], list[LabelledImage]]:
    """A function that finds the images that have a file of labels.

    Args:
        images, labels: patterns of their paths, whose groups hold the same for a pair.
        split_of: takes the groups.
        read: takes the last group, the image and its labels.
    """

    def find_images(members: Sequence[Member]) -> list[LabelledImage]:
        found = matching(members, labels)
        return [
            LabelledImage('/'.join(key), split_of(*key), partial(read, key[-1], image, found[key]))
            for key, image in matching(members, images).items()
            if key in found
        ]

    return find_images


def by_table(
    name: str, image: Member, labels: Member, table: dict, mode: str | None = None
) -> list[Piece]:
    """An image as it was published, and its label map by a table of values or, in RGB, of colours.

    Args:
        mode: of Pillow, to which labels are converted before they are looked up.

    Raises:
        DataError: a file is broken, their sizes differ, or a label is not in the table.
    """
    content, values = image.read(), pixels(labels, mode=mode)
    require_same_size(pixels(image, content), values, labels)
    look_up = look_up_colours if mode == 'RGB' else look_up_values
    return [Piece(name, content, look_up(values, table, labels))]


def pixels(member: Member, content: bytes | None = None, mode: str | None = None) -> np.ndarray:
    """The pixels of an image: (H, W), palette indices included, or (H, W, C).

    Args:
        content: of the file, where it has been read already.
        mode: of Pillow, to convert to, such as ``RGB`` for a palette of colours.

    Raises:
        DataError: it is cut, broken, or no image.
    """
    content = member.read() if content is None else content
    try:
        require_whole(content, str(member))
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(image if mode is None else image.convert(mode))
    except ImageError as error:
        raise DataError(str(error)) from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f'{member}: is no image that can be decoded ({error})') from error


def require_same_size(image: np.ndarray, labels: np.ndarray, member: Member) -> None:
    """Raise DataError where an image and its labels, from ``member``, differ in size."""
    (height, width), (rows, columns) = image.shape[:2], labels.shape[:2]
    if (height, width) != (rows, columns):
        raise DataError(
            f'{member}: {columns} x {rows} pixels, but its image has {width} x {height}'
        )


def look_up_values(labels: np.ndarray, table: dict[int, int], member: Member) -> np.ndarray:
    """Labels (H, W) of any integers -> (H, W) uint8; DataError for colours and unknown values."""
    if labels.ndim != 2:
        raise DataError(f'{member}: has {labels.shape[-1]} channels; labels have one')
    values, indices = np.unique(labels, return_inverse=True)
    refuse_unknown([value for value in values.tolist() if value not in table], member)
    numbers = np.array([table[value] for value in values.tolist()], np.uint8)
    return numbers[indices].reshape(labels.shape)


def look_up_colours(
    labels: np.ndarray, table: dict[tuple[int, int, int], int], member: Member
) -> np.ndarray:
    """Labels (H, W, 3) in colours, uint8 -> (H, W) uint8; DataError for unknown colours."""
    numbers = np.full(1 << 24, UNKNOWN, np.uint8)  # by colour, which beats sorting the pixels
    for (red, green, blue), number in table.items():
        numbers[red << 16 | green << 8 | blue] = number
    packed = labels[..., 0].astype(np.int32)
    for channel in (1, 2):
        packed <<= 8
        packed |= labels[..., channel]
    label_map = numbers[packed]
    wrong = np.unique(packed[label_map == UNKNOWN]).tolist()
    refuse_unknown([(value >> 16, value >> 8 & 255, value & 255) for value in wrong], member)
    return label_map


def refuse_unknown(values: Sequence, member: Member) -> None:
    """Raise DataError where there are ``values``: they are in the labels and are no classes."""
    if values:
        shown = shortened([str(value) for value in values], 4)
        raise DataError(f'{member}: holds {shown}, which is no class')
