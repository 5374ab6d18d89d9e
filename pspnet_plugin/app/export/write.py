"""One file from a config and a checkpoint, checked before it takes its name."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from rich.progress import track
from torch import Tensor

from ...speed.examples import input_channels
from ...utils.config_files import read_config
from ..models.segmentor import last_head
from . import images
from .check import Reference, batches, multiple, share_of_other_labels
from .errors import ExportError, first_cause
from .int8 import mean_ious, quantize_onnx, quantize_openvino
from .metadata import metadata
from .model import exported_segmentor, reference_segmentor
from .network import ExportedNetwork
from .onnx_file import HAS_DYNAMO_EXPORTER, Predict, open_onnx, write_onnx
from .openvino_file import open_openvino, write_openvino
from .settings import ExportSettings
from .torch_file import open_program, write_program

CHECKED, CALIBRATING = 4, 32  # images
EXAMPLE_SIZE = (250, 330)
NOISE = 'noise'
# The share of the pixels that may have another label than in PyTorch. Reduced precision moves the
# borders between classes; what int8 costs is for the user to judge by the mIoU.
LARGEST_SHARE = {'float32': 0.001, 'float16': 0.01, 'int8': 0.1}


class Format(NamedTuple):
    """How a file is written, opened and quantized, and the packages that it takes."""

    suffix: str
    write: Callable[..., None]
    open: Callable[[Path], Predict]
    quantize: Callable[..., None] | None = None
    packages: tuple[str, ...] = ()
    to_quantize: tuple[str, ...] = ()


ONNX_PACKAGES = ('onnx', 'onnxruntime', *(['onnxscript'] if HAS_DYNAMO_EXPORTER else []))
FORMATS = {
    'onnx': Format('.onnx', write_onnx, open_onnx, quantize_onnx, ONNX_PACKAGES),
    'openvino': Format(
        '.xml',
        write_openvino,
        open_openvino,
        quantize_openvino,
        ('openvino', *ONNX_PACKAGES),
        ('nncf',),
    ),
    'torch-export': Format('.pt2', write_program, open_program),
}


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
    chosen, out = FORMATS[settings.to], Path(out)
    require(chosen.packages + (chosen.to_quantize if settings.int8 else ()), settings.to)
    if out.suffix != chosen.suffix:
        raise ExportError(f'A file for {settings.to} ends in {chosen.suffix}, unlike {out.name}.')
    config = read_config(config)
    init_default_scope(config.get('default_scope', 'mmseg'))
    reference = Reference(reference_segmentor(config, checkpoint), settings)
    checked_on, shown = images_to_check(config, reference, check_images)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix='.export-') as folder:
        path = Path(folder, out.name)
        record(chosen, config, reference, shown, path)
        share = check(reference, chosen.open(path), shown, settings.dtype)
        measured = None
        if settings.int8:
            exact, path = path, Path(folder, 'int8', out.name)
            quantize(chosen, config, reference, exact, path)
            share = check(reference, chosen.open(path), shown, 'int8')
            measured = compare_mean_ious(chosen, config, reference, (exact, path), val_images)
        files = [file for file in path.parent.iterdir() if file.is_file()]
        size = sum(file.stat().st_size for file in files)
        for file in files:
            file.replace(out.with_name(file.name))
    return ExportReport(out, size, checked_on, share, measured)


def require(packages: tuple[str, ...], to: str) -> None:
    """Raise unless ``packages`` are installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        extra = 'openvino' if to == 'openvino' else 'onnx'
        raise ExportError(
            f'--to {to} needs {", ".join(missing)}: pip install "pspnet-plugin[{extra}]"'
        )


def images_to_check(
    config: Config, reference: Reference, folder: str | Path | None
) -> tuple[str, list[Tensor]]:
    """Where the images of the check are from, and these, (C, H, W) as they were read."""
    if folder is not None:
        samples, origin = images.folder_samples(Path(folder)), str(folder)
    else:
        samples, origin = images.dataset_samples(config, 'val_dataloader'), 'the validation set'
    chosen = images.evenly(samples, CHECKED)
    if chosen:
        read = images.read(config, chosen)
        return origin, [reference.fitted(sample['inputs']) for sample in read]
    channels = input_channels(reference.segmentor)
    made = [images.noise(channels, EXAMPLE_SIZE, number) for number in range(CHECKED)]
    return NOISE, [reference.fitted(image) for image in made]


def record(
    chosen: Format, config: Config, reference: Reference, shown: list[Tensor], path: Path
) -> None:
    """Write the network to ``path``.

    Raises:
        ExportError: the exporter cannot record it.
    """
    settings, segmentor = reference.settings, reference.segmentor
    size = settings.size or multiple(EXAMPLE_SIZE, reference.divisor)
    image = images.resized(shown[0], size)
    example = torch.stack([image] * (2 if settings.size is None else 1))
    example = torch.from_numpy(reference.input_of(example))
    texts = metadata(config, segmentor, settings, str(example.numpy().dtype))
    network = ExportedNetwork(exported_segmentor(config, segmentor), settings)
    try:
        chosen.write(network, example, settings, texts, path)
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(
            f'{settings.to} cannot record this network ({architecture(segmentor)}): '
            f'{first_cause(error)}.{way_out(settings)}'
        ) from error


def check(reference: Reference, predict: Predict, shown: list[Tensor], precision: str) -> float:
    """The share of the pixels with another label than in PyTorch.

    Raises:
        ExportError: it is too large, or the file does not take the images.
    """
    try:
        share = share_of_other_labels(reference, predict, batches(shown, reference))
    except Exception as error:  # whatever the runtime raises
        raise ExportError(
            f'No file was written: it fails on an image that PyTorch takes: {first_cause(error)}.'
            f'{way_out(reference.settings)}'
        ) from error
    if share > LARGEST_SHARE[precision]:
        raise ExportError(
            f'No file was written: {share:.2%} of the pixels get another label than in PyTorch, '
            f'{precision} may have {LARGEST_SHARE[precision]:.1%}.'
        )
    return share


def quantize(
    chosen: Format, config: Config, reference: Reference, source: Path, target: Path
) -> None:
    """Write ``source`` to ``target`` in int8, with the ranges of images of the training set.

    Raises:
        ExportError: the training set is not on this machine, or the network cannot be quantized.
    """
    assert chosen.quantize is not None
    samples = images.evenly(images.dataset_samples(config, 'train_dataloader'), CALIBRATING)
    if not samples:
        raise ExportError(
            "int8 needs images of the training set, and the config's is not on this machine: set "
            'train_dataloader.dataset.data_root to where images like those to come lie.'
        )
    target.parent.mkdir()
    read = (reference.fitted(sample['inputs']) for sample in images.read(config, samples))
    try:
        chosen.quantize(source, target, (reference.input_of(image[None]) for image in read))
    except Exception as error:  # whatever the quantizer raises
        raise ExportError(f'The network cannot be quantized: {first_cause(error)}.') from error


def compare_mean_ious(
    chosen: Format,
    config: Config,
    reference: Reference,
    paths: tuple[Path, Path],
    count: int | None,
) -> dict[str, float]:
    """The mIoU of a float32 file and of its int8 file; empty without a validation set."""
    samples = images.evenly(images.dataset_samples(config, 'val_dataloader'), count)
    if not samples:
        return {}
    predictions = {
        name: partial(reference.labels_of_file, chosen.open(path))
        for name, path in zip(('float32', 'int8'), paths)
    }
    read = track(images.read(config, samples, labels=True), 'mIoU', total=len(samples))
    fitted = ({**sample, 'inputs': reference.fitted(sample['inputs'])} for sample in read)
    head = last_head(reference.segmentor)
    return mean_ious(predictions, fitted, head.num_classes, head.ignore_index)


def architecture(segmentor: Any) -> str:
    """The names of the backbone's and the decode head's classes."""
    return f'{type(segmentor.backbone).__name__} and {type(last_head(segmentor)).__name__}'


def way_out(settings: ExportSettings) -> str:
    """What may help where a file of any size cannot be made."""
    return '' if settings.size else ' With --size HEIGHT WIDTH it may be possible.'
