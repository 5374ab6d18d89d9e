"""Labels of one image's logits by the runtimes that users would take instead of PyTorch."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from torch import Tensor, nn

from pspnet_plugin.app.export.network import ExportedNetwork
from pspnet_plugin.app.export.onnx_file import open_onnx, write_onnx
from pspnet_plugin.app.export.settings import ExportSettings

from .inputs import noise
from .measuring import Case, Step
from .settings import Settings

STOCK, OURS, WINOGRAD = 'stock', 'ours', 'ours, --winograd'
Predict = Callable[[np.ndarray], np.ndarray]  # from images to logits
Open = Callable[[Path], Predict]


def cases(label: str, stock: nn.Module, ours: nn.Module, settings: Settings) -> Iterator[Case]:
    """A case for each runtime that is installed."""
    image = noise(settings.crop)
    runtimes = installed_runtimes()
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Path] = {}
        for name in (STOCK, OURS, WINOGRAD) if runtimes else ():
            files[name] = Path(folder, f'{name}.onnx')
            export = ExportSettings(size=settings.crop, winograd=name == WINOGRAD)
            network = ExportedNetwork(stock if name == STOCK else ours, export)
            write_onnx(network, image, export, {}, files[name])
        for name, open_file in runtimes.items():
            rows = [STOCK, OURS] if 'bfloat16' in name else list(files)  # tiles are for float32
            chosen = {row: files[row] for row in rows}
            yield Case(label, name, partial(steps, open_file, chosen, image.numpy()))


def steps(open_file: Open, files: dict[str, Path], image: np.ndarray) -> dict[str, Step]:
    """The labels of the logits of each network."""

    def step(predict: Predict) -> Tensor:
        return torch.from_numpy(predict(image).argmax(1))

    return {name: partial(step, open_file(path)) for name, path in files.items()}


def installed_runtimes() -> dict[str, Open]:
    """What opens a file, by the name of the runtime, for each precision that it has here."""
    runtimes: dict[str, Open] = {}
    if importlib.util.find_spec('onnxruntime'):
        runtimes['ONNX Runtime'] = open_onnx
    if importlib.util.find_spec('openvino'):
        import openvino

        core, threads = openvino.Core(), torch.get_num_threads()

        def open_openvino(precision: str, path: Path) -> Predict:
            hints = {'INFERENCE_PRECISION_HINT': precision, 'INFERENCE_NUM_THREADS': threads}
            network = core.compile_model(path, 'CPU', hints)
            return lambda pixels: np.array(network(pixels)[0])

        runtimes['OpenVINO float32'] = partial(open_openvino, 'f32')
        if 'BF16' in core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES'):
            runtimes['OpenVINO bfloat16'] = partial(open_openvino, 'bf16')
    return runtimes
