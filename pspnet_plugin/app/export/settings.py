"""What an exported file takes and gives, and the error that stops an export."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from ...errors import PspnetPluginError
from ...utils.text import first_cause

SUFFIXES = {'onnx': '.onnx', 'openvino': '.xml', 'torch-export': '.pt2'}  # by format
OUTPUTS = ('logits', 'probabilities', 'labels')
DTYPES = ('float32', 'float16')


class ExportError(PspnetPluginError):
    """A network cannot be written in a format, or the written file computes something else."""


@contextlib.contextmanager
def as_export_error(what: str, way_out: str = '') -> Iterator[None]:
    """Within this context what a library raises becomes an ExportError with the same cause.

    What the system raises stays: a full disk says nothing about the network.
    """
    try:
        yield
    except (PspnetPluginError, OSError):
        raise
    except Exception as error:
        raise ExportError(f'{what}: {first_cause(error)}.{way_out}') from error


@dataclass(frozen=True)
class ExportSettings:
    """How a network is written.

    Args:
        to: the format: ``'onnx'``, ``'openvino'`` or ``'torch-export'``.
        size: height and width of the only size that the file takes, with one image at a time; None
            leaves batch, height and width open.
        normalize: whether the file does what the config's preprocessor does to an image as it was
            read: channel order, mean and standard deviation. Otherwise the caller does it.
        output: ``'logits'`` of the decode head, (N, C, h, w); ``'probabilities'`` at the size of
            the input, (N, C, H, W) in [0, 1]; or ``'labels'`` at the size of the input, (N, H, W),
            uint8 (int32 with more than 256 classes).
        dtype: of the weights and, where the runtime has it, of the arithmetic; the input and the
            output stay float32.
        int8: whether convolutions are quantized, calibrated on images of the training set.
        winograd: whether 3 x 3 convolutions of 512 or more channels are written as matrix products
            with a quarter of the multiplications, see :mod:`.winograd`: for float32 on CPUs.
        opset: the version of ONNX's operators; None for the one that PyTorch's exporter prefers.
    """

    to: str = 'onnx'
    size: tuple[int, int] | None = None
    normalize: bool = False
    output: str = 'logits'
    dtype: str = 'float32'
    int8: bool = False
    winograd: bool = False
    opset: int | None = None

    def __post_init__(self) -> None:
        for name, known in (('to', SUFFIXES), ('output', OUTPUTS), ('dtype', DTYPES)):
            if getattr(self, name) not in known:
                raise ExportError(f'{name}={getattr(self, name)!r} is none of {", ".join(known)}.')
        if self.size is not None and min(self.size) < 1:
            raise ExportError(f'size={self.size} is no height and width in pixels.')
        if self.int8 and self.to == 'torch-export':
            raise ExportError('int8 is for onnx and openvino, not for torch-export.')
        if self.int8 and self.dtype != 'float32':
            raise ExportError('int8 quantizes a float32 network: leave dtype as it is.')
        if self.winograd and (self.int8 or self.dtype != 'float32'):
            raise ExportError('winograd is for float32: its sums lose too much in less.')
        if self.opset is not None and self.to != 'onnx':
            raise ExportError(f'opset={self.opset} is for onnx, not for {self.to}.')
        if self.opset is not None and self.opset < 13:
            raise ExportError(f'opset={self.opset} is too old: 13 is the first that is written.')

    @property
    def way_out(self) -> str:
        """What may help where a file of any size cannot be made."""
        return '' if self.size else ' With --size HEIGHT WIDTH it may be possible.'
