"""Whole networks of stock configs: a training step, and predictions, also by other runtimes."""

from __future__ import annotations

import gc
import importlib.util
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from types import MethodType
from typing import Callable

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmseg.apis import inference_model
from mmseg.models.backbones.resnet import Bottleneck
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.utils import save_image

from pspnet_plugin.app.export.network import ExportedNetwork
from pspnet_plugin.app.export.runtimes import Predict, open_onnx, open_openvino, write_onnx
from pspnet_plugin.app.export.settings import ExportSettings
from pspnet_plugin.replacements import REPLACEMENTS
from pspnet_plugin.speed.folding import fold_batch_norms
from pspnet_plugin.utils.config_files import read_config
from pspnet_plugin.utils.config_tree import dicts_within
from pspnet_plugin.utils.text import first_line

from .heads import OURS, STOCK
from .measuring import Case, Settings, Size, Step, label_maps, noise

# The parts of the plugin, in the order in which they are added to stock.
HEADS, LOSS, CHANNELS_LAST = 'heads', 'chunked loss', 'channels-last'
FOLDING, STRIPS, KEPT_MEMORY = 'folding', 'strips', 'kept memory'
TRAINING = (HEADS, LOSS, CHANNELS_LAST, KEPT_MEMORY)
PREDICTION = (HEADS, CHANNELS_LAST, FOLDING, STRIPS, KEPT_MEMORY)
Parts = Collection[str]
STOCK_NAMES = {ours.__name__: name for name, ours in REPLACEMENTS.items()}
STOCK_NAMES.update(LabelMapEncoderDecoder='EncoderDecoder', SyncBN='BN', MMSyncBN='BN')
WINOGRAD = f'{OURS}, --winograd'
Open = Callable[[Path], Predict]


def training_cases(settings: Settings) -> Iterator[Case]:
    """A training step of a whole network: stock, then the plugin's parts added one by one."""
    label = f'training step of {Path(settings.config).stem}, batch {settings.batch}'
    yield case_of_parts(label, TRAINING, partial(training_step, settings), settings)


def prediction_cases(settings: Settings) -> Iterator[Case]:
    """From an image file to its label map: stock, then the plugin's parts added one by one.

    On a CPU in float32 its logits as well, in the other runtimes that are installed.
    """
    name = Path(settings.config).stem
    twice = 2 * settings.crop[0], 2 * settings.crop[1]  # as large as what the network reads
    with tempfile.TemporaryDirectory() as folder:
        image = str(Path(folder, 'image.png'))
        save_image(0.5 + 0.25 * noise(twice), image)
        prepare = partial(prediction, settings, image)
        yield case_of_parts(f'file to label map by {name}', PREDICTION, prepare, settings)
    if not (settings.on_gpu or settings.compile) and settings.dtype == 'float32':
        yield from runtime_cases(f'logits of {name}', settings)


def case_of_parts(
    label: str, parts: tuple[str, ...], prepare: Callable[[Parts], Step], settings: Settings
) -> Case:
    """Stock without a part, then each part together with all parts before it.

    Channels-last is left out where stock is, too, and kept memory on GPUs, where it does nothing.
    """
    left_out = {CHANNELS_LAST: settings.channels_last, KEPT_MEMORY: settings.on_gpu}
    parts = tuple(part for part in parts if not left_out.get(part))

    def steps() -> dict[str, Step]:
        added = {f'+ {part}': prepare(parts[: n + 1]) for n, part in enumerate(parts)}
        return {STOCK: prepare(()), **added}

    return Case(f'{label}, {settings.crop_as_text}', steps, keeping=(f'+ {KEPT_MEMORY}',))


def stock_config(config: str | Config, crop: Size) -> Config:
    """A config with stock's classes and random weights, for crops of this size in one process."""
    config = read_config(config)
    for node in dicts_within(config.model):
        if node.get('type') in STOCK_NAMES:
            node['type'] = STOCK_NAMES[node['type']]
        if 'Pretrained' in str(node.get('init_cfg')):
            del node['init_cfg']
        if isinstance(node.get('pretrained'), (str, bool)):
            node['pretrained'] = None
        if 'img_size' in node:  # transformers have weights for each position
            node['img_size'] = crop
    (config.model.get('data_preprocessor') or {})['size'] = crop
    for step in config.get('test_pipeline', ()):
        if step.type == 'Resize':
            step.scale = crop[::-1]
    return config


def build(settings: Settings, parts: Parts = ()) -> EncoderDecoder:
    """The network with some of HEADS, CHANNELS_LAST and STRIPS; the same weights each time."""
    config = stock_config(settings.config, settings.crop).model
    for node in dicts_within(config):
        ours = REPLACEMENTS.get(node.get('type'))
        if ours and (STRIPS if issubclass(ours, EncoderDecoder) else HEADS) in parts:
            node['type'] = ours
    torch.manual_seed(0)
    layout = torch.channels_last if CHANNELS_LAST in parts else settings.memory_format
    return MODELS.build(config).to(settings.device, memory_format=layout)


def build_predicting(settings: Settings, parts: Parts = ()) -> EncoderDecoder:
    """The network with these parts, in evaluation mode, with weights that predict many labels."""
    model = build(settings, parts)
    model.load_state_dict(weights(settings))
    model.eval()
    if FOLDING in parts:
        example = noise(settings.crop).to(settings.device)
        model, _ = fold_batch_norms(model, lambda folded: folded(example, mode='tensor'))
    return model


@lru_cache(maxsize=1)
def weights(settings: Settings) -> dict[str, Tensor]:
    """Random weights that are as sensitive to rounding as trained ones.

    The running statistics of the batch norms are those of such images, and a residual branch
    changes its input little: otherwise half precision would change most labels.
    """
    model = build(settings)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = None  # None: the statistics of this batch, not a moving average
        elif isinstance(module, Bottleneck):
            nn.init.constant_(module.norm3.weight, 0.2)
    model.train()
    with torch.no_grad():  # of two images: batch norm cannot normalize a single 1 x 1 map
        model(noise(settings.crop, batch=2).to(settings.device), mode='tensor')
    return model.state_dict()


def training_step(settings: Settings, parts: Parts = ()) -> Step:
    """mmengine's training step with the config's optimizer; returns the loss.

    In 16 bits the loss is not scaled; scaling would cost every variant the same.
    """
    model = build(settings, parts)
    model.train()
    if HEADS in parts and LOSS not in parts:  # with stock's loss, to measure the two apart
        for head in model.modules():
            if type(head) in REPLACEMENTS.values():
                head.loss_by_feat = MethodType(BaseDecodeHead.loss_by_feat, head)
    call = settings.compiled(model.forward)
    samples = label_maps(model.decode_head.num_classes, settings)
    crops = torch.randint(256, (settings.batch, 3, *settings.crop), dtype=torch.uint8)
    MMLogger.get_current_instance().setLevel('WARNING')  # else a line for each parameter's settings
    optimizer = stock_config(settings.config, settings.crop).optim_wrapper
    optim_wrapper = build_optim_wrapper(model, {**optimizer, 'type': 'OptimWrapper'})

    def step() -> Tensor:
        data = model.data_preprocessor({'inputs': list(crops), 'data_samples': samples}, True)
        with settings.autocast():
            loss, _ = model.parse_losses(call(**data, mode='loss'))
        optim_wrapper.update_params(loss)
        return loss.detach()

    return step


def largest_batch(settings: Settings, parts: Parts) -> str:
    """The most crops with which training steps in float16 have enough memory; why, if it is 0."""
    torch.backends.cudnn.benchmark = False  # trying all algorithms for each batch takes minutes
    fits, fails, reason = 0, 256, ''
    while fails - fits > 1:
        batch = (fits + fails) // 2
        gc.collect()
        try:
            step = training_step(replace(settings, dtype='float16', batch=batch), parts)
            step()
            step()  # with the optimizer's state, which the first one made
            fits = batch
        except (RuntimeError, ValueError) as error:  # no memory, also cuDNN's; a batch norm's
            fails, reason = batch, first_line(error)
        step = None
    return str(fits) if fits else f'0, {reason}'


def prediction(settings: Settings, image: str, parts: Parts = ()) -> Step:
    """mmseg's own inference on the network with these parts; returns the label map, (H, W)."""
    model = build_predicting(settings, parts)
    model.cfg = stock_config(settings.config, settings.crop)
    model.forward = settings.compiled(model.forward)

    def step() -> Tensor:
        with settings.autocast():
            return inference_model(model, image).pred_sem_seg.data[0].cpu()

    return step


def runtime_cases(label: str, settings: Settings) -> Iterator[Case]:
    """The labels of the logits in each other runtime that is installed."""
    runtimes = installed_runtimes()
    stock, ours = build_predicting(settings), build_predicting(settings, (HEADS, FOLDING))
    image = noise(settings.crop)
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder, f'{name}.onnx') for name in (STOCK, OURS, WINOGRAD)}
        for name, path in files.items() if runtimes else ():
            export = ExportSettings(size=settings.crop, winograd=name == WINOGRAD)
            network = ExportedNetwork(stock if name == STOCK else ours, export)
            write_onnx(network, image, {}, path)
        for runtime, open_file in runtimes.items():
            rows = (STOCK, OURS) if 'bfloat16' in runtime else files  # larger tiles: for float32
            chosen = {row: files[row] for row in rows}
            yield Case(f'{label}, {runtime}', partial(steps, open_file, chosen, image.numpy()))


def steps(open_file: Open, files: dict[str, Path], image: np.ndarray) -> dict[str, Step]:
    """The labels of the logits of each network."""
    opened = {name: open_file(path) for name, path in files.items()}

    def labels(name: str) -> Tensor:
        return torch.from_numpy(opened[name](image).argmax(1))

    return {name: partial(labels, name) for name in files}


def installed_runtimes() -> dict[str, Open]:
    """What opens a file, by the name of the runtime, for each precision that it has here."""
    runtimes: dict[str, Open] = {}
    if importlib.util.find_spec('onnxruntime'):
        runtimes['ONNX Runtime'] = open_onnx
    if importlib.util.find_spec('openvino'):
        import openvino

        runtimes['OpenVINO float32'] = open_openvino
        if 'BF16' in openvino.Core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES'):
            runtimes['OpenVINO bfloat16'] = partial(open_openvino, precision='bf16')
    return runtimes
