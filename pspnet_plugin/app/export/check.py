"""Whether an exported file gives the label maps that PyTorch gives, and on which images."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import Compose
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample
from rich.progress import track
from torch import Tensor

from ...speed.examples import input_channels
from ...utils.datasets import datasets_of, listed_samples, scope_of, without_pipeline
from ..images.sources import IMAGE_SUFFIXES, files_below
from ..models import last_head
from ..prediction.pipeline import reads_eight_bits, stated_pipeline, without_labels
from .network import padding_of
from .runtimes import Predict
from .settings import ExportError, ExportSettings, as_export_error

CHECKED, CALIBRATING = 4, 32  # images
EXAMPLE_SIZE = (250, 330)
NOISE = 'noise'
ODD_SIZE = (161, 203)  # neither the stride of a network nor the bins of a pyramid divide it
# The fraction of the pixels that may have another label than in PyTorch. Reduced precision moves
# the borders between classes; what int8 costs is for the user to judge by the mIoU.
TOLERATED = {'float32': 0.001, 'float16': 0.01, 'int8': 0.1}


class Reference:
    """The segmentor in PyTorch, as mmseg itself predicts with it, beside the exported file."""

    def __init__(self, segmentor: Any, settings: ExportSettings) -> None:
        self.segmentor, self.settings = segmentor, settings
        # The file pads by itself.
        self.preprocessor = copy.copy(segmentor.data_preprocessor)
        self.preprocessor.test_cfg = None

    def fitted(self, image: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """An image as it was read, (C, H, W), at its size or another, made one the file takes."""
        sides = list(self.settings.size or size or image.shape[1:])
        if list(image.shape[1:]) == sides:
            return image
        out = F.interpolate(image[None].float(), sides, mode='bilinear', align_corners=False)[0]
        return (out if image.is_floating_point() else out.round()).to(image.dtype)

    def example(self, image: Tensor) -> Tensor:
        """What the network is recorded with, made of an image as it was read, (C, H, W)."""
        images = [self.fitted(image, EXAMPLE_SIZE)] * (2 if self.settings.size is None else 1)
        return torch.from_numpy(self.input_of(torch.stack(images)))

    @torch.no_grad()
    def labels(self, images: Tensor) -> Tensor:
        """The label maps, (N, H, W), of images as they were read, (N, C, H, W)."""
        size = tuple(images.shape[2:])
        samples = [SegDataSample(metainfo={'img_shape': size, 'ori_shape': size}) for _ in images]
        data = {'inputs': list(images), 'data_samples': samples}
        padded = self.segmentor.data_preprocessor(data, False)
        metas = [sample.metainfo for sample in padded['data_samples']]
        logits = self.segmentor.encode_decode(padded['inputs'], metas)
        predicted = self.segmentor.postprocess_result(logits, padded['data_samples'])
        return torch.stack([sample.pred_sem_seg.data[0] for sample in predicted])

    def labels_of_file(self, predict: Predict, images: Tensor) -> Tensor:
        """The label maps, (N, H, W), that the file gives for the same images."""
        output = torch.from_numpy(predict(self.input_of(images)))
        if self.settings.output == 'labels':
            return output.long()
        if self.settings.output == 'logits':
            corners = self.segmentor.align_corners
            height, width = images.shape[2:]
            down, right = padding_of(self.segmentor.data_preprocessor, (height, width))
            padded = height + down, width + right
            output = F.interpolate(output.float(), padded, mode='bilinear', align_corners=corners)
            output = output[..., :height, :width]
        if output.shape[1] > 1:
            return output.argmax(1)
        scores = output.sigmoid() if self.settings.output == 'logits' else output
        return (scores > last_head(self.segmentor).threshold).long()[:, 0]

    def input_of(self, images: Tensor) -> np.ndarray:
        """What the file is given for images as they were read, (N, C, H, W)."""
        return (images if self.settings.normalize else self.normalized(images)).numpy()

    def normalized(self, images: Tensor) -> Tensor:
        """The images as the network takes them, by mmseg's own preprocessor."""
        return self.preprocessor({'inputs': list(images)}, False)['inputs']


def check(reference: Reference, predict: Predict, images: list[Tensor], precision: str) -> float:
    """The fraction of the pixels with another label than in PyTorch, in the worst batch.

    Args:
        predict: the opened file.
        images: (C, H, W) each, as they were read, at a size that the file takes: the file is asked
            for each alone and, where it takes any size, for all in one batch of an odd size.

    Raises:
        ExportError: it is too large, or the file does not take the images.
    """
    batches = [image[None] for image in images]
    if reference.settings.size is None:
        batches.append(torch.stack([reference.fitted(image, ODD_SIZE) for image in images]))
    worst, tolerated = 0.0, TOLERATED[precision]
    what = 'No file was written: it fails on an image that PyTorch takes'
    with as_export_error(what, reference.settings.way_out):
        for batch in batches:
            differ = reference.labels_of_file(predict, batch) != reference.labels(batch)
            worst = max(worst, differ.float().mean().item())
    if worst > tolerated:
        raise ExportError(
            f'No file was written: {worst:.2%} of the pixels get another label than in PyTorch, '
            f'{precision} may have {tolerated:.1%}.{reference.settings.way_out}'
        )
    return worst


def mean_ious(
    reference: Reference, files: dict[str, Predict], config: Config, count: int | None
) -> dict[str, float]:
    """The mIoU in percent of each of the opened files, by mmseg's metric.

    It is measured on the validation set, or on ``count`` of it; empty where it is not here.
    """
    head = last_head(reference.segmentor)
    areas: dict[str, list[tuple]] = {}
    samples = evenly(dataset_samples(config, 'val_dataloader'), count)
    if not samples:
        return {}
    for sample in track(read(config, samples, labels=True), 'mIoU', total=len(samples)):
        label = sample['data_samples'].gt_sem_seg.data[0]
        image = reference.fitted(sample['inputs'])[None]
        for name, predict in files.items():
            labels = reference.labels_of_file(predict, image)[:, None].float()
            labels = F.interpolate(labels, size=label.shape)[0, 0].long()
            counted = IoUMetric.intersect_and_union(
                labels, label, head.num_classes, head.ignore_index
            )
            areas.setdefault(name, []).append(counted)
    found = {}
    for name, counted in areas.items():
        totals = [sum(column) for column in zip(*counted)]
        metrics = IoUMetric.total_area_to_metrics(*totals, metrics=['mIoU'])
        found[name] = 100 * float(np.nanmean(metrics['IoU']))
    return found


# --- images as the network of a config reads them ----------------------------------------------


def images_to_check(
    config: Config, folder: str | Path | None, segmentor: Any
) -> tuple[str, list[Tensor]]:
    """Where the images of the check are from, and these, (C, H, W) as they were read."""
    channels = input_channels(segmentor)
    if folder is not None:
        paths = files_below(Path(folder), IMAGE_SUFFIXES)
        samples, origin = [{'img_path': str(path)} for path in paths], str(folder)
        if not samples:
            kinds = ', '.join(sorted(IMAGE_SUFFIXES))
            raise ExportError(f'No image ({kinds}) lies in {Path(folder).absolute()}.')
    else:
        samples, origin = dataset_samples(config, 'val_dataloader'), 'the validation set'
    if not samples:
        structure = [noise(channels, EXAMPLE_SIZE, number) for number in range(CHECKED)]
        if reads_eight_bits(stated_pipeline(config, tta=False)[0]):
            return NOISE, [(128 + 40 * one).clamp(0, 255).to(torch.uint8) for one in structure]
        normal = segmentor.data_preprocessor
        if getattr(normal, 'mean', None) is None:
            return NOISE, structure
        return NOISE, [one * normal.std + normal.mean for one in structure]
    chosen = evenly(samples, CHECKED)
    images = [sample['inputs'] for sample in read(config, chosen)]
    for sample, image in zip(chosen, images):
        if len(image) != channels:
            found = f'has {len(image)} channels, but the model reads {channels}'
        elif image.dtype != images[0].dtype:
            found = f'is read as {image.dtype}, but {chosen[0]["img_path"]} as {images[0].dtype}'
        elif not image.float().isfinite().all():
            found = 'has pixels that are NaN or infinite, of which no label follows'
        else:
            continue
        raise ExportError(f'{sample["img_path"]} {found}: check on others, --check-images FOLDER.')
    return f'{len(images)} of the images of {origin}', images


def images_to_calibrate(config: Config) -> Iterator[Tensor]:
    """Images of the training set, which has to be there, (C, H, W) as they were read."""
    samples = evenly(dataset_samples(config, 'train_dataloader'), CALIBRATING)
    if not samples:
        raise ExportError(
            "int8 needs images of the training set, and the config's is not on this machine: set "
            'train_dataloader.dataset.data_root to where images like those to come lie.'
        )
    return (sample['inputs'] for sample in read(config, samples))


def dataset_samples(config: Config, loader: str) -> list[dict]:
    """What the dataset of ``config[loader]`` lists; empty where it is not on this machine."""
    samples: list[dict] = []
    for _, dataset in datasets_of(config, (loader,)):
        built = without_pipeline(dataset, scope_of(config))
        try:
            listed = listed_samples(built) if built is not None else []
        except (OSError, AssertionError):  # mmseg asserts that a list of images is there
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
        with as_export_error(f'{sample["img_path"]} cannot be read'):
            packed = pipeline(copy.deepcopy(sample) if labels else {'img_path': sample['img_path']})
        yield packed


def noise(channels: int, size: tuple[int, int], number: int) -> Tensor:
    """An image (C, H, W) of structure at several scales, around 0."""
    generator = torch.Generator().manual_seed(number)
    total = torch.zeros(channels, *size)
    for cells in (2, 4, 8, 16, 32):
        blobs = torch.randn(1, channels, cells, cells, generator=generator)
        total += F.interpolate(blobs, size=size, mode='bilinear')[0]
    return total
