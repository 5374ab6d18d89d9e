"""The formats: how a network is written in each, opened, and quantized to int8.

ONNX is written by PyTorch's exporter and run by ONNX Runtime; OpenVINO's ``.xml``, with its weights
in a ``.bin`` beside it, by way of ONNX; a program of ``torch.export`` PyTorch runs without the
Python code of the network.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import io
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ...compat import old_torch
from ...compat.shape_bounds import bounds_kept
from .network import ExportedNetwork
from .settings import ExportError

Predict = Callable[[np.ndarray], np.ndarray]
Meta = dict[str, str]

# Before torch 2.7 the newer of its two exporters gives the open dimensions no names.
HAS_DYNAMO_EXPORTER = old_torch.version() >= (2, 7)
INPUT = 'image'
# The first that the newer exporter writes; before it the older one is taken.
OLDEST_OPSET = 18
OPEN = {0: 'batch', 2: 'height', 3: 'width'}
# A protobuf message holds at most 2 GiB; larger weights are written beside it.
LARGEST_FILE = 1_900_000_000
# What OpenVINO and ONNX Runtime compute in int8 around a convolution without leaving int8.
QUANTIZED = ['Add', 'AveragePool', 'Clip', 'Concat', 'Conv', 'MaxPool', 'Relu']


class Runtime(NamedTuple):
    """How a file is written, opened and quantized, and the packages that it takes.

    An opened file is a function from images, (N, C, H, W), to what it gives for them, on the CPU
    and in float32. The file at the first path is quantized to the second, with int8 convolutions
    whose ranges are those that the images give.
    """

    write: Callable[[ExportedNetwork, Tensor, Meta, Path], None]
    open: Callable[[Path], Predict]
    quantize: Callable[[Path, Path, Iterable[np.ndarray]], None] | None = None
    packages: tuple[str, ...] = ()
    to_quantize: tuple[str, ...] = ()


# --- ONNX ---------------------------------------------------------------------------------------


def write_onnx(network: ExportedNetwork, example: Tensor, metadata: Meta, path: Path) -> None:
    """Write ``network`` to ``path``; weights of more than 1.9 GB to ``path.data`` beside it.

    Args:
        example: (N, C, H, W). Where settings leave the size open, N is 2: exporters take a size of
            1 for a constant.
        metadata: goes into the file's ``metadata_props``.
    """
    import onnx

    settings = network.settings
    options: dict[str, Any] = {'input_names': [INPUT], 'output_names': [settings.output]}
    if settings.opset is not None:
        options['opset_version'] = settings.opset
    if HAS_DYNAMO_EXPORTER and (settings.opset is None or settings.opset >= OLDEST_OPSET):
        external = size_of(network) > LARGEST_FILE
        options.update(dynamo=True, verbose=False, external_data=external)
        options['dynamic_shapes'] = None if settings.size else (OPEN,)
    elif settings.dtype == 'float16' and settings.to == 'onnx':
        raise ExportError(
            f'float16 needs torch 2.7 or later, here is {torch.__version__}, and opset '
            f'{OLDEST_OPSET} or later.'
        )
    else:
        options['dynamic_axes'] = None if settings.size else {INPUT: OPEN}
        if HAS_DYNAMO_EXPORTER:
            options['dynamo'] = False
    with torch.no_grad(), quiet(), bounds_kept():
        torch.onnx.export(network, (example,), str(path), **options)
    model = onnx.load(path, load_external_data=False)
    written = max(opset.version for opset in model.opset_import if not opset.domain)
    if settings.opset not in (None, written):
        raise ExportError(
            f'opset {settings.opset} cannot be had of torch {torch.__version__}, '
            f'which wrote {written}.'
        )
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


def size_of(network: nn.Module) -> int:
    """The bytes of a network's weights."""
    return sum(weight.numel() * weight.element_size() for weight in network.parameters())


def open_onnx(path: Path) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, ['CPUExecutionProvider'])
    return lambda image: session.run(None, {session.get_inputs()[0].name: image})[0]


def quantize_onnx(source: Path, target: Path, images: Iterable[np.ndarray]) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        feeds = ({INPUT: image} for image in images)

        def get_next(self) -> dict | None:
            return next(self.feeds, None)

    with quiet(), tempfile.TemporaryDirectory() as folder:
        # It also computes what is constant, such as the part of a weight that a convolution takes.
        prepared = Path(folder, 'prepared.onnx')
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared, target, Reader(), op_types_to_quantize=QUANTIZED, per_channel=True
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within this context exporters neither warn nor log anything below an error."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)


# --- OpenVINO -----------------------------------------------------------------------------------


class SignalStack(ctypes.Structure):
    """Linux' ``stack_t``: the memory on which a thread handles signals."""

    _fields_ = [('start', ctypes.c_void_p), ('flags', ctypes.c_int), ('size', ctypes.c_size_t)]


@contextlib.contextmanager
def signal_stack_kept() -> Iterator[None]:
    """After this context the thread handles signals on the memory on which it did before.

    OpenVINO gives the thread that loads it other memory and takes it back. Where of two networks
    the first goes first, the thread is left with memory that is freed, and the next signal ends
    the process without a word: Ctrl-C, or a worker of a data loader that has done its work.
    """
    if sys.platform != 'linux':  # elsewhere OpenVINO leaves it
        yield
        return
    system, stack = ctypes.CDLL(None), SignalStack()
    system.sigaltstack(None, ctypes.byref(stack))
    try:
        yield
    finally:
        system.sigaltstack(ctypes.byref(stack), None)


def write_openvino(network: ExportedNetwork, example: Tensor, metadata: Meta, path: Path) -> None:
    """Write ``network`` with ``metadata`` in the file's ``rt_info``, under ``pspnet``.

    float16 is how the weights are stored; in which precision it computes is decided when the file
    is read, see docs/exporting.md.
    """
    import openvino

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        onnx_path = Path(folder, 'network.onnx')
        write_onnx(network, example, metadata, onnx_path)
        model = openvino.convert_model(onnx_path)
        for key, value in metadata.items():
            model.set_rt_info(value, ['pspnet', key])
        halved = network.settings.dtype == 'float16'
        openvino.save_model(model, path, compress_to_fp16=halved)


@signal_stack_kept()
def open_openvino(path: Path, precision: str = 'f32') -> Predict:
    import openvino

    threads = torch.get_num_threads()
    hints = {'INFERENCE_PRECISION_HINT': precision, 'INFERENCE_NUM_THREADS': threads}
    network = openvino.Core().compile_model(path, 'CPU', hints)
    return lambda image: np.array(network(image)[0])


@signal_stack_kept()
def quantize_openvino(source: Path, target: Path, images: Iterable[np.ndarray]) -> None:
    import nncf
    import openvino

    model = openvino.Core().read_model(source)
    model = nncf.quantize(model, nncf.Dataset(list(images)))
    openvino.save_model(model, target, compress_to_fp16=False)


# --- torch.export -------------------------------------------------------------------------------


def write_program(network: ExportedNetwork, example: Tensor, metadata: Meta, path: Path) -> None:
    """Write ``network`` with ``metadata`` as ``extra_files['metadata.json']``."""
    if not HAS_DYNAMO_EXPORTER:
        raise ExportError(
            f'--to torch-export needs torch 2.7 or later, here is {torch.__version__}: use --to '
            'onnx.'
        )
    with torch.no_grad(), quiet(), bounds_kept():
        dims = dict.fromkeys(OPEN, torch.export.Dim.DYNAMIC)
        shapes = None if network.settings.size else (dims,)
        program = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
        content = io.BytesIO()  # torch's own writing ends the process where a disk is full
        torch.export.save(program, content, extra_files={'metadata.json': json.dumps(metadata)})
    path.write_bytes(content.getbuffer())


def open_program(path: Path) -> Predict:
    network = torch.export.load(path).module()
    return torch.no_grad()(lambda image: network(torch.from_numpy(image)).numpy())


# --- which is which -----------------------------------------------------------------------------

ONNX = ('onnx', 'onnxruntime', *(['onnxscript'] if HAS_DYNAMO_EXPORTER else []))
OPENVINO = ('openvino', *ONNX)
RUNTIMES = {
    'onnx': Runtime(write_onnx, open_onnx, quantize_onnx, ONNX),
    'openvino': Runtime(write_openvino, open_openvino, quantize_openvino, OPENVINO, ('nncf',)),
    'torch-export': Runtime(write_program, open_program),
}


def require(packages: Iterable[str], to: str) -> None:
    """Raise ExportError unless ``packages``, which the format ``to`` needs, are installed."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        extra = 'openvino' if to == 'openvino' else 'onnx'
        raise ExportError(
            f'--to {to} needs {", ".join(missing)}: pip install "pspnet-plugin[{extra}]"'
        )
