"""Images as the network of a config reads them: from its datasets, from a folder, or noise."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import Compose
from rich.progress import track
from torch import Tensor

from ...utils.config_tree import datasets_within
from ...utils.datasets import scope_of, without_pipeline
from ..images.sources import IMAGE_SUFFIXES, files_below
from ..prediction.pipeline import stated_pipeline, without_labels
from .settings import ExportError

CHECKED, CALIBRATING = 4, 32  # images
EXAMPLE_SIZE = (250, 330)
NOISE = 'noise'


def images_to_check(
    config: Config, folder: str | Path | None, channels: int
) -> tuple[str, list[Tensor]]:
    """Where the images of the check are from, and these, (C, H, W) as they were read."""
    if folder is not None:
        paths = files_below(Path(folder), IMAGE_SUFFIXES)
        samples, origin = [{'img_path': str(path)} for path in paths], str(folder)
        if not samples:
            kinds = ', '.join(sorted(IMAGE_SUFFIXES))
            raise ExportError(f'No image ({kinds}) lies in {Path(folder).absolute()}.')
    else:
        samples, origin = dataset_samples(config, 'val_dataloader'), 'the validation set'
    if not samples:
        return NOISE, [noise(channels, EXAMPLE_SIZE, number) for number in range(CHECKED)]
    return origin, [sample['inputs'] for sample in read(config, evenly(samples, CHECKED))]


def images_to_calibrate(config: Config) -> Iterator[Tensor]:
    """Images of the training set, which has to be there, (C, H, W) as they were read."""
    samples = evenly(dataset_samples(config, 'train_dataloader'), CALIBRATING)
    if not samples:
        raise ExportError(
            "int8 needs images of the training set, and the config's is not on this machine: set "
            'train_dataloader.dataset.data_root to where images like those to come lie.'
        )
    return (sample['inputs'] for sample in read(config, samples))


def labelled_images(config: Config, count: int | None) -> Iterator[dict]:
    """The validation set with label maps, or ``count`` of it; none where it is not here."""
    samples = evenly(dataset_samples(config, 'val_dataloader'), count)
    if samples:
        yield from track(read(config, samples, labels=True), 'mIoU', total=len(samples))


def dataset_samples(config: Config, loader: str) -> list[dict]:
    """What the dataset of ``config[loader]`` lists; empty where it is not on this machine."""
    samples: list[dict] = []
    for dataset in datasets_within((config.get(loader) or {}).get('dataset')):
        built = without_pipeline(dataset, scope_of(config))
        try:
            listed = built.load_data_list() if built is not None else []
        except OSError:
            return []
        samples += [sample for sample in listed if Path(sample['img_path']).is_file()]
    return samples


def evenly(samples: list[dict], count: int | None) -> list[dict]:
    """``count`` of the samples, evenly spread; all of them for None."""
    count = len(samples) if count is None else min(count, len(samples))
    return [samples[i * len(samples) // count] for i in range(count)]


def read(config: Config, samples: list[dict], labels: bool = False) -> Iterator[dict]:
    """Run the test pipeline of ``config`` over ``samples``.

    Yields:
        What ``PackSegInputs`` makes: ``inputs``, (C, H, W), not normalized, and ``data_samples``,
        with the label map where ``labels`` asks for it.
    """
    steps = list(stated_pipeline(config, tta=False))
    pipeline = Compose(copy.deepcopy(steps if labels else without_labels(steps)))
    for sample in samples:
        yield pipeline(copy.deepcopy(sample) if labels else {'img_path': sample['img_path']})


def noise(channels: int, size: tuple[int, int], number: int) -> Tensor:
    """An image (C, H, W), uint8, of structure at several scales."""
    generator = torch.Generator().manual_seed(number)
    total = torch.zeros(1, channels, *size)
    for cells in (2, 4, 8, 16, 32):
        blobs = torch.randn(1, channels, cells, cells, generator=generator)
        total += F.interpolate(blobs, size=size, mode='bilinear')
    return (128 + 40 * total[0]).clamp(0, 255).to(torch.uint8)
