"""``torch.export``: a program that PyTorch runs without the Python code of the network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .errors import ExportError
from .onnx_file import HAS_DYNAMO_EXPORTER, OPEN, Predict, quiet
from .settings import ExportSettings

METADATA = 'metadata.json'


def write_program(
    network: nn.Module,
    example: Tensor,
    settings: ExportSettings,
    metadata: dict[str, str],
    path: Path,
) -> None:
    """Write ``network`` to ``path``, with ``metadata`` as ``extra_files['metadata.json']``.

    The arguments are those of :func:`.write_onnx`.
    """
    if not HAS_DYNAMO_EXPORTER:
        raise ExportError(
            f'--to torch-export needs torch 2.7 or later, here is {torch.__version__}: use --to '
            'onnx.'
        )
    with torch.no_grad(), quiet():
        dims = dict.fromkeys(OPEN, torch.export.Dim.DYNAMIC)
        shapes = None if settings.size else (dims,)
        program = torch.export.export(network, (example,), dynamic_shapes=shapes, strict=False)
        torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata)})


def open_program(path: Path) -> Predict:
    """A function from images, (N, C, H, W), to what the file gives for them."""
    network = torch.export.load(path).module()

    def predict(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return network(torch.from_numpy(image)).numpy()

    return predict
