"""Labels of one image's logits by what users would take instead: other runtimes, and bfloat16."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Callable

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


def cases(label: str, stock: nn.Module, ours: nn.Module, settings: Settings) -> Iterator[Case]:
    """A case for PyTorch in float32 and bfloat16, and one for each runtime that is installed."""
    image = noise(settings.crop)
    networks = {STOCK: stock, OURS: ours}
    for name, dtype in (('float32', torch.float32), ('bfloat16', torch.bfloat16)):
        build = partial(steps, partial(open_torch, dtype), networks, image)
        yield Case(label, f'PyTorch {name}', build)
    runtimes = installed_runtimes()
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Path] = {}
        for name in (STOCK, OURS, WINOGRAD) if runtimes else ():
            files[name] = Path(folder, f'{name}.onnx')
            export = ExportSettings(size=settings.crop, winograd=name == WINOGRAD)
            network = ExportedNetwork(stock if name == STOCK else ours, export)
            write_onnx(network, image, export, {}, files[name])
        for name, open_file in runtimes.items():
            # Larger tiles are for float32 alone.
            chosen = {row: files[row] for row in (networks if 'bfloat16' in name else files)}
            yield Case(label, name, partial(steps, open_file, chosen, image))


def steps(open_one: Callable, networks: dict[str, Any], image: Tensor) -> dict[str, Step]:
    """The labels of the logits of each network, by the runtime that ``open_one`` opens it with."""
    runs = {name: open_one(network) for name, network in networks.items()}
    pixels = image.numpy()
    return {
        name: lambda run=run: torch.from_numpy(run(pixels).argmax(1)) for name, run in runs.items()
    }


def open_torch(dtype: torch.dtype, model: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    @torch.no_grad()
    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
            return model(torch.from_numpy(pixels), mode='tensor').float().numpy()

    return run


def installed_runtimes() -> dict[str, Callable[[Path], Callable]]:
    """What opens a file, by the name of the runtime, for each precision that it has here."""
    runtimes: dict[str, Callable[[Path], Callable]] = {}
    if importlib.util.find_spec('onnxruntime'):
        runtimes['ONNX Runtime'] = open_onnx
    if importlib.util.find_spec('openvino'):
        import openvino

        core, threads = openvino.Core(), torch.get_num_threads()

        def open_openvino(precision: str, path: Path) -> Callable[[np.ndarray], np.ndarray]:
            hints = {'INFERENCE_PRECISION_HINT': precision, 'INFERENCE_NUM_THREADS': threads}
            network = core.compile_model(path, 'CPU', hints)
            return lambda pixels: np.array(network(pixels)[0])

        runtimes['OpenVINO float32'] = partial(open_openvino, 'f32')
        if 'BF16' in core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES'):
            runtimes['OpenVINO bfloat16'] = partial(open_openvino, 'bf16')
    return runtimes
