"""ONNX: written by PyTorch's exporter, run by ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from torch import Tensor, nn

from ...compat import old_torch
from .errors import ExportError
from .settings import ExportSettings

Predict = Callable[[np.ndarray], np.ndarray]

# Before torch 2.7 the newer of its two exporters gives the open dimensions no names.
HAS_DYNAMO_EXPORTER = old_torch.version() >= (2, 7)
INPUT = 'image'
OPEN = {0: 'batch', 2: 'height', 3: 'width'}
# A protobuf message holds at most 2 GiB; larger weights are written beside it.
LARGEST_FILE = 1_900_000_000


def write_onnx(
    network: nn.Module,
    example: Tensor,
    settings: ExportSettings,
    metadata: dict[str, str],
    path: Path,
) -> None:
    """Write ``network`` to ``path``; weights of more than 1.9 GB to ``path.data`` beside it.

    Args:
        example: (N, C, H, W). Where settings leave the size open, N is 2: exporters take a size of
            1 for a constant.
        metadata: goes into the file's ``metadata_props``.
    """
    import onnx

    options: dict[str, Any] = {'input_names': [INPUT], 'output_names': [settings.output]}
    if HAS_DYNAMO_EXPORTER:
        size = sum(p.numel() * p.element_size() for p in network.parameters())
        options.update(dynamo=True, verbose=False, external_data=size > LARGEST_FILE)
        options['dynamic_shapes'] = None if settings.size else (OPEN,)
    elif settings.dtype == 'float16' and settings.to == 'onnx':
        raise ExportError(f'float16 needs torch 2.7 or later, here is {torch.__version__}.')
    elif settings.size is None:
        options['dynamic_axes'] = {INPUT: OPEN}
    with torch.no_grad(), quiet():
        torch.onnx.export(network, (example,), str(path), **options)
    model = onnx.load(path, load_external_data=False)
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, path)


def open_onnx(path: Path) -> Predict:
    """A function from images, (N, C, H, W), to what the file gives for them, on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, ['CPUExecutionProvider'])
    return lambda image: session.run(None, {session.get_inputs()[0].name: image})[0]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within this context exporters neither warn nor log anything below an error."""
    loggers = [logging.getLogger(name) for name in ('torch.onnx', 'onnxscript', 'onnx_ir')]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
