"""OpenVINO: an ``.xml`` file with its weights in a ``.bin`` beside it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .onnx_file import Predict, write_onnx
from .settings import ExportSettings

SECTION = 'pspnet'


def write_openvino(
    network: nn.Module,
    example: Tensor,
    settings: ExportSettings,
    metadata: dict[str, str],
    path: Path,
) -> None:
    """Write ``network`` to ``path`` by way of ONNX, with ``metadata`` in the file's ``rt_info``.

    The arguments are those of :func:`.write_onnx`. float16 is how the weights are stored; in which
    precision it computes is decided when the file is read, see docs/exporting.md.
    """
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        onnx_path = Path(folder, 'network.onnx')
        write_onnx(network, example, settings, metadata, onnx_path)
        model = openvino.convert_model(onnx_path)
        for key, value in metadata.items():
            model.set_rt_info(value, [SECTION, key])
        openvino.save_model(model, path, compress_to_fp16=settings.dtype == 'float16')


def open_openvino(path: Path) -> Predict:
    """A function from images, (N, C, H, W), to what the file gives for them, in float32."""
    import openvino

    exact = {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': torch.get_num_threads()}
    network = openvino.Core().compile_model(path, 'CPU', exact)
    return lambda image: np.array(network(image)[0])
