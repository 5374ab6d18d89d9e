"""Shapes on small images, and the datasets that annotation tools write of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (48, 64)  # rows, columns
SQUARE = [[4.0, 5.0], [30.0, 5.0], [30.0, 40.0], [4.0, 40.0]]
TRIANGLE = [[34.2, 8.1], [60.7, 20.3], [38.5, 44.9]]


def write_images(
    folder: Path, count: int = 6, suffix: str = '.png', first_seed: int = 0
) -> list[Path]:
    """Images that differ, named by their numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f'{number}{suffix}' for number in range(count)]
    for number, path in enumerate(paths):
        blocks = np.random.default_rng(first_seed + number).integers(0, 255, (6, 8, 3), np.uint8)
        Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8))).save(path)
    return paths


def coco_of(names: list[str], shapes: list[tuple[str, Any]], **of_first: Any) -> dict:
    """A COCO dataset whose images all have these shapes: a label and its segmentation each.

    Args:
        of_first: what the first annotation has beside, or otherwise.
    """
    labels = sorted({label for label, _ in shapes})
    rows, columns = SIZE
    annotations = [
        {
            'id': len(shapes) * image + number,
            'image_id': image,
            'category_id': labels.index(label) + 1,
            'segmentation': segmentation,
            'iscrowd': int(isinstance(segmentation, dict)),
        }
        for image in range(len(names))
        for number, (label, segmentation) in enumerate(shapes)
    ]
    annotations[0].update(of_first)
    return {
        'images': [
            {'id': number, 'file_name': name, 'width': columns, 'height': rows}
            for number, name in enumerate(names)
        ],
        'categories': [{'id': number, 'name': label} for number, label in enumerate(labels, 1)],
        'annotations': annotations,
    }


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def flat(points: list[list[float]]) -> list[float]:
    return [coordinate for point in points for coordinate in point]


def label_map_of(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def border_of(mask: np.ndarray) -> np.ndarray:
    """The pixels that touch, across an edge or a corner, one of another value."""
    padded = np.pad(mask, 1, mode='edge')
    rows, columns = mask.shape
    shifted = [padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
    return np.any([other != mask for other in shifted], axis=0)
