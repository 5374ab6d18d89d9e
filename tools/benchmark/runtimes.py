"""Logits of one image by what users would pick instead: other runtimes and half precision."""

from __future__ import annotations

import importlib.util
import tempfile
from functools import partial
from pathlib import Path
from typing import Callable

import torch
from torch import Tensor, nn

from pspnet_plugin.app.export.network import ExportedNetwork
from pspnet_plugin.app.export.runtimes import write_onnx
from pspnet_plugin.app.export.settings import ExportSettings

from .models import NETWORKS
from .settings import Settings
from .table import Baseline, Quantity, Table, Wanted
from .timing import time_alternately

Predict = Callable[[], Tensor]  # logits (1, classes, h, w)

TIME, LABELS = 'logits', 'labels equal to stock'
STOCK, OURS, TILES = 'stock', 'ours', 'ours, --winograd'
PYTORCH, ONNX_RUNTIME = 'PyTorch', 'ONNX Runtime'
SAME = 'stock in the same runtime'
# At least so many times as fast as stock in the same runtime; by network.
WANTED = {
    'pspnet_r50': {
        f'{ONNX_RUNTIME}, {TILES}': 1.35,
        f'OpenVINO float32, {TILES}': 1.45,
        f'OpenVINO bfloat16, {OURS}': 1.8,
    }
}
BFLOAT16_UNIT = 'amx_bf16'  # without it bfloat16 takes as long as float32, or longer


def measure(
    models: dict[str, nn.Module], exported: dict[str, nn.Module], image: Tensor, settings: Settings
) -> Table:
    """Each runtime with stock's network and with ours, in turn, on a CPU in float32 and bfloat16.

    Args:
        models: STOCK and OURS as PyTorch runs them.
        exported: STOCK, OURS and TILES as they are written to files.
        image: (1, 3, H, W), normalized.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {
            name: write(exported[name], image, Path(folder, f'{number}.onnx'), name == TILES)
            for number, name in enumerate((STOCK, OURS, TILES))
        }
        steps = prepare(models, files, image, settings)
        seconds = time_alternately(steps, settings)
        labels = {row: step().argmax(1) for row, step in steps.items()}
    capabilities = getattr(torch.cpu, 'get_capabilities', dict)()  # none in older versions
    stock = {row: f'{row.partition(", ")[0]}, {STOCK}' for row in steps}
    first = labels[f'{PYTORCH}, {STOCK}']
    equal = {row: [100 * (found == first).double().mean().item()] for row, found in labels.items()}
    height, width = settings.crop
    return Table(
        title=f'Logits of {NETWORKS[settings.model].title} at {height} x {width} in other runtimes',
        baselines=(Baseline(f'{PYTORCH}, {STOCK}'), Baseline(SAME, rows=stock)),
        quantities=(Quantity(TIME, 's', seconds), Quantity(LABELS, '%', equal)),
        wanted=tuple(
            Wanted(TIME, row, SAME, low=ratio)
            for row, ratio in WANTED.get(settings.model, {}).items()
            if row in steps and ('bfloat16' not in row or capabilities.get(BFLOAT16_UNIT))
        ),
    )


def write(network: nn.Module, image: Tensor, path: Path, winograd: bool) -> Path:
    """Write the network as ONNX for images of this size."""
    height, width = image.shape[2:]
    export = ExportSettings(size=(height, width), winograd=winograd)
    write_onnx(ExportedNetwork(network, export), image, export, {}, path)
    return path


def prepare(
    models: dict[str, nn.Module], files: dict[str, Path], image: Tensor, settings: Settings
) -> dict[str, Predict]:
    """The rows: stock and ours beside each other for each runtime that is installed."""
    runtimes: dict[str, Callable[[str], Predict]] = {
        PYTORCH: lambda name: partial(run_pytorch, models[name], image, False)
    }
    if importlib.util.find_spec('onnxruntime'):
        runtimes[ONNX_RUNTIME] = lambda name: open_onnxruntime(files[name], image, settings)
    if importlib.util.find_spec('openvino'):
        precisions = openvino_precisions()
        for precision, hint in precisions.items():
            runtimes[f'OpenVINO {precision}'] = partial(
                lambda hint, name: open_openvino(files[name], image, hint, settings), hint
            )
    runtimes[f'{PYTORCH} bfloat16'] = lambda name: partial(run_pytorch, models[name], image, True)
    return {
        f'{runtime}, {name}': make(name)
        for runtime, make in runtimes.items()
        for name in (STOCK, OURS, TILES)
        if name != TILES or runtime in (ONNX_RUNTIME, 'OpenVINO float32')
    }


@torch.no_grad()
def run_pytorch(model: nn.Module, image: Tensor, bfloat16: bool) -> Tensor:
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=bfloat16):
        return model(image, mode='tensor').float()


def open_onnxruntime(path: Path, image: Tensor, settings: Settings) -> Predict:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    session = onnxruntime.InferenceSession(str(path), options, ['CPUExecutionProvider'])
    feed = {session.get_inputs()[0].name: image.numpy()}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def open_openvino(path: Path, image: Tensor, hint: str, settings: Settings) -> Predict:
    import openvino

    properties = {
        'INFERENCE_PRECISION_HINT': hint,
        'INFERENCE_NUM_THREADS': settings.threads,
        'PERFORMANCE_HINT': 'LATENCY',
    }
    network = openvino.Core().compile_model(path, 'CPU', properties)
    return lambda: torch.from_numpy(network(image.numpy())[0].copy())


def openvino_precisions() -> dict[str, str]:
    """What the CPU plugin computes in on this machine."""
    import openvino

    known = openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    return {'float32': 'f32', **({'bfloat16': 'bf16'} if 'BF16' in known else {})}
