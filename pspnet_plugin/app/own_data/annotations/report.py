"""What a person should know about annotations before they become label maps: a line each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ....utils.text import shortened
from .draw import Oddities
from .shapes import Annotations, ImageFiles

SHOWN = 5  # kinds of overlaps that are named


def report_lines(oddities: Mapping[Path, Oddities], order: str) -> list[str]:
    """What the shapes have that is odd.

    Args:
        order: why one shape lies on top of another, for the end of a sentence.
    """
    kinds = (
        ('outside', 'partly outside of the image, which is cut off'),
        ('thin', 'thinner than a pixel, so that the outline is drawn too'),
        ('hidden', 'wholly below others, so that the label map lacks it'),
    )
    lines = []
    for kind, told in kinds:
        found = {path: getattr(one, kind) for path, one in oddities.items() if getattr(one, kind)}
        if found:
            labels = Counter(label for names in found.values() for label in names)
            of = ', '.join(f'{count} {label}' for label, count in labels.most_common(SHOWN))
            lines.append(
                f'{told}: {counted(sum(labels.values()), "shape")} in '
                f'{counted(len(found), "image")} ({of}; first {next(iter(found))})'
            )
    return lines + overlap_lines(oddities, order)


def overlap_lines(oddities: Mapping[Path, Oddities], order: str) -> list[str]:
    """Which classes lie over which."""
    pixels: Counter = Counter()
    images: Counter = Counter()
    for one in oddities.values():
        pixels.update(one.overlaps)
        images.update(one.overlaps.keys())
    lines = [
        f'{above} lies over {below} on {counted(pixels[below, above], "pixel")} in '
        f'{counted(images[below, above], "image")}: {order}'
        for below, above in sorted(pixels, key=pixels.__getitem__, reverse=True)
    ]
    more = len(lines) - SHOWN
    return lines[:SHOWN] + ([f'and {more} more pairs of classes lie over one another'] * (more > 0))


def without_shapes_lines(found: Annotations, images: ImageFiles, choice: str | None) -> list[str]:
    """What becomes of images without a shape, and of those that no annotation names."""
    empty = [str(image.path) for image in found.images.values() if not image.shapes]
    unnamed = [str(path) for path in images.paths.values() if path not in found.images]
    lines = []
    for paths, told, usual in (
        (empty, 'without a shape', 'background'),
        (unnamed, 'not named by any annotation', 'skip'),
    ):
        if paths:
            if (choice or usual) == 'background':
                becomes = 'background everywhere (--unannotated skip leaves them out)'
            else:
                becomes = 'left out (--unannotated background takes them as background)'
            lines.append(f'{told}: {counted(len(paths), "image")}, {becomes}: {shortened(paths)}')
    return lines


def counted(number: int, noun: str) -> str:
    """``1 shape``, ``2 shapes``."""
    return f'{number} {noun}{"" if number == 1 else "s"}'


def left_out_lines(found: Annotations) -> list[str]:
    """What is in no label map: lines and points, and what ``--skip-broken`` allows."""
    lines = []
    if found.without_area:
        count = counted(len(found.without_area), 'shape')
        lines.append(f'without an area: {count}, left out: {shortened(found.without_area)}')
    if found.problems:
        broken = shortened(found.problems, SHOWN)
        lines.append(f'broken and left out, so that their pixels are background: {broken}')
    return lines
