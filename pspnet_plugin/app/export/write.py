"""One file from a config and a checkpoint, checked before it takes its name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import Tensor

from ...speed.examples import input_channels
from ...utils.config_files import read_config
from ...utils.text import first_cause
from ..models.segmentor import last_head
from ..prediction.pipeline import stated_pipeline
from .check import Reference, check, mean_ious
from .images import NOISE, images_to_calibrate, images_to_check, labelled_images
from .network import ExportedNetwork, metadata_of
from .runtimes import RUNTIMES, Runtime, require
from .segmentors import load_segmentors
from .settings import SUFFIXES, ExportError, ExportSettings


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it was checked.

    Attributes:
        path: of the file.
        size: in bytes, with what lies beside it.
        checked_on: where the images of the check are from.
        other_labels: the share of pixels with another label than in PyTorch, in the worst batch.
        mean_ious: in percent, ``'float32'`` and ``'int8'`` of an int8 file; empty where there is no
            validation set, None for other files.
    """

    path: Path
    size: int
    checked_on: str
    other_labels: float
    mean_ious: dict[str, float] | None = None

    def lines(self) -> list[str]:
        """The report in sentences."""
        lines = [
            f'{self.path} is written, {self.size / 1e6:.1f} MB; on {self.checked_on} '
            f'{1 - self.other_labels:.3%} of the labels are those of PyTorch.'
        ]
        if self.checked_on == NOISE:
            lines.append(
                'The validation set is not on this machine; --check-images FOLDER takes others.'
            )
        if self.mean_ious is not None and not self.mean_ious:
            lines.append(
                'The mIoU of int8 is not known: the validation set is not on this machine.'
            )
        elif self.mean_ious:
            exact, int8 = self.mean_ious['float32'], self.mean_ious['int8']
            lines.append(
                f'mIoU {exact:.2f} in float32, {int8:.2f} in int8: {exact - int8:.2f} lost.'
            )
        return lines


def export_model(
    config: str | Path | Config,
    checkpoint: str | Path,
    out: str | Path,
    settings: ExportSettings = ExportSettings(),  # noqa: B008  it cannot be changed
    check_images: str | Path | None = None,
    val_images: int | None = None,
) -> ExportReport:
    """Write the network of a config and a checkpoint to a file that runs without either.

    The file is compared with PyTorch, as the config's own segmentor predicts, before it takes its
    name; a file that was there stays until then.

    Args:
        config: a path, a ``Config``, or a name such as ``'psp_r50_cityscapes'``.
        checkpoint: a path or a reference such as ``mmseg://MODEL-ZOO-NAME``.
        out: the file to write.
        settings: what the file takes and gives.
        check_images: a folder of images to check with, in place of the validation set's.
        val_images: how many images of the validation set measure the mIoU of an int8 file, evenly
            spread; None for all.

    Raises:
        ExportError: the network cannot be recorded, a package is missing, or labels differ.
        PredictionError: the checkpoint is not of this config.
    """
    runtime, suffix, out = RUNTIMES[settings.to], SUFFIXES[settings.to], Path(out)
    require(runtime.packages + (runtime.to_quantize if settings.int8 else ()), settings.to)
    if out.suffix != suffix:
        raise ExportError(f'A file for {settings.to} ends in {suffix}, unlike {out.name}.')
    config = read_config(config)
    init_default_scope(config.get('default_scope', 'mmseg'))
    segmentor, exported = load_segmentors(config, checkpoint)
    reference = Reference(segmentor, settings)
    checked_on, images = images_to_check(config, check_images, input_channels(segmentor))
    images = [reference.fitted(image) for image in images]
    steps = stated_pipeline(config, tta=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix='.export-') as folder:
        path = Path(folder, out.name)
        record(runtime, exported, steps, reference, images[0], path)
        predict = runtime.open(path)
        other_labels = check(reference, predict, images, settings.dtype)
        measured = None
        if settings.int8:
            exact, path = path, Path(folder, 'int8', out.name)
            quantize(runtime, images_to_calibrate(config), reference, exact, path)
            files = {'float32': predict, 'int8': runtime.open(path)}
            other_labels = check(reference, files['int8'], images, 'int8')
            measured = mean_ious(reference, files, labelled_images(config, val_images))
        written = [file for file in path.parent.iterdir() if file.is_file()]
        size = sum(file.stat().st_size for file in written)
        for file in written:
            file.replace(out.with_name(file.name))
    return ExportReport(out, size, checked_on, other_labels, measured)


def record(
    runtime: Runtime, exported: Any, steps: list, reference: Reference, image: Tensor, path: Path
) -> None:
    """Write a segmentor to ``path``.

    Args:
        steps: of the config's test pipeline.
        image: (C, H, W), as it was read.
    """
    settings, segmentor = reference.settings, reference.segmentor
    example = reference.example(image)
    metadata = metadata_of(segmentor, steps, settings, str(example.numpy().dtype))
    network = ExportedNetwork(exported, settings)
    try:
        runtime.write(network, example, settings, metadata, path)
    except ExportError:
        raise
    except Exception as error:
        backbone, head = type(segmentor.backbone).__name__, type(last_head(segmentor)).__name__
        raise ExportError(
            f'{settings.to} cannot record this network ({backbone} and {head}): '
            f'{first_cause(error)}.{settings.way_out}'
        ) from error


def quantize(
    runtime: Runtime, images: Iterator[Tensor], reference: Reference, source: Path, target: Path
) -> None:
    """Write ``source`` to ``target`` in int8, with the ranges of what ``images`` give."""
    assert runtime.quantize is not None
    target.parent.mkdir()
    inputs = (reference.input_of(reference.fitted(image)[None]) for image in images)
    try:
        runtime.quantize(source, target, inputs)
    except Exception as error:  # whatever the quantizer raises
        raise ExportError(f'The network cannot be quantized: {first_cause(error)}.') from error
