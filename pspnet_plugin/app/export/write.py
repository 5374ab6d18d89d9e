"""One file from a config and a checkpoint, checked before it takes its name."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.apis import init_model
from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder

from ...speed.examples import example_runs
from ...utils.config_files import read_config
from ...utils.datasets import class_info, scope_of
from ...utils.files import require_own, without_leftovers
from ...utils.text import without_warnings_of_mmseg
from ..models import build_segmentor, folded, last_head, load_weights, model_settings
from .check import NOISE, Reference, check, images_to_calibrate, images_to_check, mean_ious
from .network import ExportedNetwork, metadata_of
from .runtimes import RUNTIMES, require, size_of
from .settings import SUFFIXES, ExportError, ExportSettings, as_export_error

PREFIX = '.pspnet-export-'  # of the folder that holds files that are not whole yet
BLOCK = 1 << 20
GRAPH = 4 * BLOCK  # what a file holds beside the weights, at most
STOCK = (EncoderDecoder.encode_decode, CascadeEncoderDecoder.encode_decode)


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how it was checked."""

    path: Path
    size: int  # in bytes, with what lies beside it
    checked_on: str  # where the images of the check are from
    other_labels: float  # the share of pixels unlike PyTorch's, in the worst batch
    # In percent, 'float32' and 'int8' of an int8 file; empty where there is no validation set.
    mean_ious: dict[str, float] | None = None
    left_out: Sequence[str] = ()  # what the config does with an image beside what the file does

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
        if self.left_out:
            lines.append(
                f'The config also has {", ".join(self.left_out)}, which the file does not do: its '
                'labels are not those of pspnet predict without.'
            )
        if self.mean_ious == {}:
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
    if out.is_dir():
        raise ExportError(f'{out} is a folder: name a file in it.')
    weights = out.with_suffix('.bin')  # of OpenVINO
    if settings.to == 'openvino' and weights.exists() and not out.exists():
        raise ExportError(f'{weights} is not of an earlier {out.name}: name another file.')
    require_own(out, 'channel_order')  # of the metadata
    config = read_config(config)
    init_default_scope(scope_of(config))
    segmentor, exported = load_segmentors(config, checkpoint)
    reference = Reference(segmentor, settings)
    checked_on, images = images_to_check(config, check_images, segmentor)
    images = [reference.fitted(image) for image in images]
    example = reference.example(images[0])
    metadata = metadata_of(segmentor, config, settings, example)
    needs = json.loads(metadata['input'])
    left_out = [*needs['other_steps'], *(['windows (mode="slide")'] if needs['window'] else [])]
    parts = (type(part).__name__ for part in (segmentor.backbone, last_head(segmentor)))
    what = f'{settings.to} cannot record this network ({" and ".join(parts)})'
    with folder_beside(out) as folder:
        path = Path(folder, out.name)
        copies = 1 + settings.int8 + (settings.to == 'openvino')  # which comes by way of ONNX
        require_room(path, copies * (size_of(exported) + GRAPH))
        with as_export_error(what, settings.way_out):
            runtime.write(ExportedNetwork(exported, settings), example, metadata, path)
            predict = runtime.open(path)
        other_labels = check(reference, predict, images, settings.dtype)
        measured = None
        if settings.int8:
            exact, path = path, Path(folder, 'int8', out.name)
            path.parent.mkdir()
            calibrating = map(reference.fitted, images_to_calibrate(config))
            inputs = (reference.input_of(image[None]) for image in calibrating)
            assert runtime.quantize is not None
            with as_export_error('The network cannot be quantized'):
                runtime.quantize(exact, path, inputs)
            files = {'float32': predict, 'int8': runtime.open(path)}
            other_labels = check(reference, files['int8'], images, 'int8')
            measured = mean_ious(reference, files, config, val_images)
        written = [file for file in path.parent.iterdir() if file.is_file()]
        size = sum(file.stat().st_size for file in written)
        for file in written:
            file.replace(out.with_name(file.name))
    return ExportReport(out, size, checked_on, other_labels, measured, left_out)


@contextlib.contextmanager
def folder_beside(out: Path) -> Iterator[str]:
    """A folder on the disk of ``out``, for what is not whole; an OSError of it names ``out``.

    Those that killed exports have left there are removed.
    """
    try:
        with contextlib.suppress(FileExistsError):  # a file, as the folder in it says better
            out.parent.mkdir(parents=True, exist_ok=True)
        with (
            without_leftovers(out.parent, f'{PREFIX}*'),
            tempfile.TemporaryDirectory(dir=out.parent, prefix=PREFIX) as folder,
        ):
            yield folder
    except OSError as error:
        if error.filename is None or PREFIX in str(error.filename):
            error.filename, error.filename2 = str(out), None
        raise


def require_room(path: Path, size: int) -> None:
    """Raise the OSError of a disk that has no room for a file of so many bytes.

    Some libraries say of a full disk only that they could not write.
    """
    with open(path, 'wb') as file:
        for begin in range(0, size, BLOCK):
            file.write(bytes(min(BLOCK, size - begin)))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


def load_segmentors(config: Config, checkpoint: str | Path) -> tuple[Any, Any]:
    """The segmentor as mmseg builds it, and the one that is exported, with the same weights.

    The second has factorized heads, and folded batch norms where possible: the same outputs up to
    rounding.
    """
    stock_config = copy.deepcopy(config)
    stock_config.model = model_settings(config)
    with as_export_error('MMSegmentation cannot build the model'), without_warnings_of_mmseg():
        reference = init_model(stock_config, None, device='cpu')
    if getattr(type(reference), 'encode_decode', None) not in STOCK:
        raise ExportError(
            f'{type(reference).__name__} has a way of its own from images to logits; EncoderDecoder'
            ' and CascadeEncoderDecoder can be exported.'
        )
    meta, _ = load_weights(reference, os.fspath(checkpoint))
    names = class_info(config, meta, last_head(reference).num_classes)
    reference.dataset_meta = dict(zip(('classes', 'palette'), names))
    exported: Any = revert_sync_batchnorm(build_segmentor(config))
    exported.load_state_dict(reference.state_dict())
    exported.eval()
    return reference, folded(exported, example_runs(exported))
