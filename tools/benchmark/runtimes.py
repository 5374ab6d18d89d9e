"""Logits of one image by what users would take instead: other runtimes, and bfloat16."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from torch import Tensor, nn

from pspnet_plugin.app.export.network import ExportedNetwork
from pspnet_plugin.app.export.onnx_file import open_onnx, write_onnx
from pspnet_plugin.app.export.settings import ExportSettings
from pspnet_plugin.speed.channels_last import set_memory_format

from .inputs import noise
from .measuring import Case, Step
from .settings import Settings

STOCK, OURS, WINOGRAD = 'stock', 'ours', 'ours, --winograd'
Predict = Callable[[np.ndarray], np.ndarray]  # from images to logits


def cases(label: str, stock: nn.Module, ours: nn.Module, settings: Settings) -> Iterator[Case]:
    """A case for each runtime that is installed; the steps return the labels of the logits."""
    image = noise(settings.crop)
    with tempfile.TemporaryDirectory() as folder:

        @cache
        def written(name: str) -> Path:
            path = Path(folder, f'{name}.onnx')
            export = ExportSettings(size=settings.crop, winograd=name == WINOGRAD)
            network = ExportedNetwork(stock if name == STOCK else ours, export)
            write_onnx(network, image, export, {}, path)
            return path

        def steps(open_file: Callable[[Path], Predict], names: list[str]) -> dict[str, Step]:
            return {name: run_file(open_file(written(name)), image) for name in names}

        for name, open_file in installed_runtimes().items():
            names = [STOCK, OURS] + ([] if 'bfloat16' in name else [WINOGRAD])
            yield Case(label, name, partial(steps, open_file, names))
    set_memory_format(ours, torch.channels_last)
    for name, bfloat16 in (('float32', False), ('bfloat16', True)):
        pair = {STOCK: run_torch(stock, image, bfloat16), OURS: run_torch(ours, image, bfloat16)}
        yield Case(label, f'PyTorch {name}', partial(dict, pair))


def installed_runtimes() -> dict[str, Callable[[Path], Predict]]:
    """What opens a file, by the name of the runtime, for each precision that it has here."""
    runtimes: dict[str, Callable[[Path], Predict]] = {}
    if importlib.util.find_spec('onnxruntime'):
        runtimes['ONNX Runtime'] = open_onnx
    if importlib.util.find_spec('openvino'):
        import openvino

        runtimes['OpenVINO float32'] = partial(open_openvino, 'f32')
        if 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'):
            runtimes['OpenVINO bfloat16'] = partial(open_openvino, 'bf16')
    return runtimes


def open_openvino(precision: str, path: Path) -> Predict:
    import openvino

    settings = {'INFERENCE_PRECISION_HINT': precision, 'PERFORMANCE_HINT': 'LATENCY'}
    settings['INFERENCE_NUM_THREADS'] = str(torch.get_num_threads())
    network = openvino.Core().compile_model(path, 'CPU', settings)
    return lambda pixels: np.array(network(pixels)[0])


def run_file(predict: Predict, image: Tensor) -> Step:
    return lambda: torch.from_numpy(predict(image.numpy()).argmax(1))


def run_torch(model: nn.Module, image: Tensor, bfloat16: bool) -> Step:
    @torch.no_grad()
    def step() -> Tensor:
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=bfloat16):
            return model(image, mode='tensor').argmax(1)

    return step
