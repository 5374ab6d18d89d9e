#!/usr/bin/env python
"""What ``pspnet_plugin.accelerate`` does to each model family of the installed MMSegmentation.

One config of each family: of those in which most classes are replaced, the one that needs least
memory by its metafile, then the first by name. It is built twice with the same random weights,
stock and accelerated. Compared in float64 on eight images of 64 x 64: losses and all gradients of a
training step, logits and label maps of a prediction, relative to the largest value of the tensor
(of small gradients to a thousandth of the largest of all). Timed: 512 x 512 in float32, by turns.
"""

from __future__ import annotations

import argparse
import copy
import logging
import math
import multiprocessing
import os
import re
import sys
import tempfile
import textwrap
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Callable
from unittest import mock

import torch
import yaml
from mmengine.config import Config, ConfigDict
from mmengine.model import BaseDataPreprocessor
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor, nn
from torch.optim import SGD

from pspnet_plugin.app.training import stock_tools
from pspnet_plugin.compat import runner as callbacks
from pspnet_plugin.replacements import REPLACEMENTS
from pspnet_plugin.utils.config_tree import dicts_within
from pspnet_plugin.utils.text import first_line, table_as_text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark.measuring import IGNORED, Case, Settings, label_maps, measure, noise
from benchmark.networks import stock_config

CONFIGS = stock_tools().parent / 'configs'
EQUAL = 1e-9
COLUMNS = 'family', 'config', 'replaced', 'loss and gradients', 'prediction', 'faster', 'remarks'
# What is compared. Batch norms of 1 x 1 maps, of two images, would make much of any rounding.
SIZE, IMAGES = 64, 8
TIMED_SIZE, RUNS = 512, 3
LIMIT = 180  # seconds for one family
# A gradient that is zero but for rounding is compared with this part of the largest of all.
SMALL = 1e-3
# Hooks of mmengine that would need more than a model.
WITHOUT = 'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'
Row = dict[str, str]  # of the table, by COLUMNS
Runners = dict[str, Runner]  # of the stock and of the accelerated model


def measure_family(family: str) -> Row:
    """Compare a step and a prediction in float64, then time predictions in float32."""
    row, unread = {'family': family}, []
    try:
        row['config'], config = typical_config(family, unread)
        init_default_scope('mmseg')
        torch.set_default_dtype(torch.float64)  # of what a model makes itself, such as coordinates
        compared = compare(config, SIZE, IMAGES)
        if compared['prediction'].startswith('stock fails'):  # pools that want a larger map
            compared = compare(config, TIMED_SIZE, 2)
        torch.set_default_dtype(torch.float32)
        return {**row, **compared, 'faster': ratio(build_both(config, TIMED_SIZE))}
    except Exception as error:  # whatever a config or a class raises is a result
        # A config that cannot be read says better than its neighbour's model what is missing.
        return {**row, 'remarks': reason((*unread, error)[0])}


def reason(error: BaseException) -> str:
    text = f'{type(error).__name__}: {first_line(error)}'
    return textwrap.shorten(text, 160, placeholder=' ...').replace('|', '/')


def typical_config(family: str, unread: list[Exception]) -> tuple[str, Config]:
    """The config in which most classes are replaced; of several, the one that needs least memory.

    The memory is what the family's metafile says of training; the name decides between equals.
    Errors of configs that cannot be read are added to ``unread``.
    """
    configs, memory = {}, {}
    for path in sorted((CONFIGS / family).glob('*.py')):
        try:
            configs[path.name] = Config.fromfile(path)
        except Exception as error:  # a config may import what is not installed
            unread.append(error)
    for path in (CONFIGS / family).glob('metafile.yaml'):
        for model in yaml.safe_load(path.read_text())['Models']:
            needed = (model.get('Metadata') or {}).get('Memory (GB)', math.inf)
            memory[Path(model['Config']).name] = needed

    def order(name: str) -> tuple:
        types = {str(node.get('type')) for node in dicts_within(configs[name].model)}
        return -len(types & REPLACEMENTS.keys()), memory.get(name, math.inf), name

    name = min(configs, key=order)
    return name.removesuffix('.py'), configs[name]


def build_both(config: Config, size: int) -> Runners:
    """The stock and the accelerated model of a config, of the same weights, with their runners."""
    config = stock_config(config, (size, size))
    with mock.patch.dict(MODELS._module_dict), mock.patch.object(callbacks, 'added_hooks', []):
        stock = build(config)
        from pspnet_plugin import accelerate

        accelerate.enable()  # also where it was imported before
        ours = build(config)
    ours.model.load_state_dict(stock.model.state_dict(), strict=True)
    return {'stock': stock, 'accelerated': ours}


def build(config: Config) -> Runner:
    """A runner of the model, with random weights, without dropout, and with images as they are.

    It has no hooks but those that accelerate adds.
    """
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(config.model))
    model.init_weights()
    model.data_preprocessor = BaseDataPreprocessor()  # mmseg's makes float32 of the images
    for tensor in (*model.parameters(), *model.buffers()):  # all the same, as zeros are, hides much
        if tensor.is_floating_point() and tensor.numel() and tensor.min() == tensor.max():
            tensor.data.add_(0.1 * torch.randn_like(tensor).clamp(-3, 3))
    for module in model.modules():
        for name in ('p', 'drop_prob', 'dropout', 'dropout_ratio'):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    name, none = f'with {len(callbacks.added_hooks)} hooks', dict.fromkeys(WITHOUT)
    return Runner(model, '.', default_hooks=none, default_scope='mmseg', experiment_name=name)


def batch_of(images: int, size: int, model: nn.Module, ignored: bool = True) -> dict[str, list]:
    """Noise with random labels, edges and depths, as a data loader returns them."""
    classes = [m.num_classes for m in model.decode_head.modules() if hasattr(m, 'num_classes')]
    samples = label_maps(classes[-1], Settings(batch=images, crop=(size, size)))
    for sample in samples:
        labels = sample.gt_sem_seg.data
        sample.gt_edge_map = PixelData(data=labels % 2)
        sample.gt_depth_map = PixelData(data=torch.rand(1, size, size))
        sample.set_metainfo(dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), (size, size)))
        if not ignored:
            labels[labels == IGNORED] = 0
    return {'inputs': noise((size, size), images), 'data_samples': samples}


def compare(config: Config, size: int, images: int) -> Row:
    """What is replaced, the largest differences, and what hooks warn of."""
    runners = build_both(config, size)
    stock, ours = (list(runner.model.modules())[1:] for runner in runners.values())
    names = dict.fromkeys(type(a).__name__ for a, b in zip(stock, ours) if type(a) is not type(b))
    warned = BufferingHandler(capacity=1000)
    warned.setLevel(logging.WARNING)
    runners['accelerated'].logger.addHandler(warned)
    batch = batch_of(images, size, runners['stock'].model)
    prediction, training = (difference(run, runners, batch) for run in (predict, train))
    remarks = []
    if 'IndexError' in training:  # class weights have none for ignored pixels
        remarks.append(f'compared without ignored pixels: {training}')
        batch = batch_of(images, size, runners['stock'].model, ignored=False)
        training = difference(train, runners, batch)
    remarks += dict.fromkeys(record.getMessage() for record in warned.buffer)
    return {
        'replaced': ', '.join(name for name in names if name in REPLACEMENTS),
        'loss and gradients': training,
        'prediction': prediction,
        'remarks': '; '.join(remarks),
    }


def difference(run: Callable, runners: Runners, batch: dict) -> str:
    """The largest relative difference of what ``run`` returns of both, or who failed and why."""
    results = []
    for name, runner in runners.items():
        torch.manual_seed(1)
        try:
            results.append(run(runner, copy.deepcopy(batch)))
        except Exception as error:  # a failure of either is a result
            return f'{name} fails: {reason(error)}'
    largest = relative_difference(*results)
    return f'{largest:.0e}' if largest <= EQUAL else f'unequal: {largest:.1e}'


def relative_difference(expected: dict[str, Tensor], actual: dict[str, Tensor]) -> float:
    """The largest of all tensors, each relative to its largest value; NaN is the worst of all."""
    if expected.keys() != actual.keys():
        return math.inf
    floats = [v for v in expected.values() if v.is_floating_point() and v.dim()]  # not the losses
    smallest = SMALL * max((value.abs().max().item() for value in floats), default=1)
    differences = [
        (actual[name] - value).abs().max().item() / max(value.abs().max().item(), smallest)
        for name, value in expected.items()
    ]
    return math.nan if any(map(math.isnan, differences)) else max(differences)


def train(runner: Runner, batch: dict) -> dict[str, Tensor]:
    """Losses and gradients of one training step."""
    runner.call_hook('before_train')
    runner.call_hook('before_train_iter', batch_idx=0, data_batch=batch)
    runner.model.train()
    # The first of two steps that are accumulated leaves its gradients, and the weights.
    optimizer = OptimWrapper(SGD(runner.model.parameters(), lr=0.0), accumulative_counts=2)
    losses = runner.model.train_step(batch, optim_wrapper=optimizer)
    gradients = {name: p.grad for name, p in runner.model.named_parameters() if p.grad is not None}
    return {name: torch.as_tensor(value) for name, value in {**losses, **gradients}.items()}


@torch.no_grad()
def predict(runner: Runner, batch: dict) -> dict[str, Tensor]:
    """Label maps as they are predicted, and logits as they are predicted for one who asks."""
    model, stated, results = runner.model, runner.model.test_cfg, {}
    for asked in ({}, {'seg_logits': True}):
        model.test_cfg = ConfigDict({**(stated or {}), **asked})
        start_test(runner, batch)
        for number, sample in enumerate(model.test_step(copy.deepcopy(batch))):
            for key, value in sample.items():
                if not key.startswith('gt_') and (asked or key != 'seg_logits'):
                    results[f'{number} {key} {asked}'] = value.data
        runner.call_hook('after_test_epoch', metrics={})
    model.test_cfg = stated
    return results


def start_test(runner: Runner, batch: dict) -> None:
    runner.model.eval()
    runner.call_hook('before_test')
    runner.call_hook('before_test_epoch')
    runner.call_hook('before_test_iter', batch_idx=0, data_batch=batch)


@torch.no_grad()
def ratio(runners: Runners) -> str:
    """How many times as fast the accelerated model predicts a larger image in float32."""
    batch, steps = batch_of(1, TIMED_SIZE, runners['stock'].model), {}
    for name, runner in runners.items():
        start_test(runner, batch)
        # Asked for in each step: after the first one a hook gives the model another.
        steps[name] = lambda model=runner.model: model.test_step(batch)
    try:
        stock, ours = measure(Case('', lambda: steps, ('accelerated',)), Settings(runs=RUNS))
    except Exception as error:  # a failure is a result
        return reason(error)
    return f'{stock.time.median / ours.time.median:.2f} x'


def measure_apart(family: str) -> Row:
    """Measure in a process of its own, which may crash, or is ended after ``LIMIT`` seconds."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['pspnet_plugin'])  # what takes long is imported once
    with tempfile.TemporaryDirectory() as folder, context.Pool(1, silence, [folder]) as pool:
        try:
            return pool.apply_async(measure_family, [family]).get(LIMIT)
        except multiprocessing.TimeoutError:
            return {'family': family, 'remarks': f'crashed, or not finished within {LIMIT} s'}


def silence(folder: str) -> None:
    os.chdir(folder)  # the runner leaves its log there
    sys.stdout = sys.stderr = open(os.devnull, 'w')  # noqa: SIM115  until the process ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = sorted(path.name for path in CONFIGS.glob('[!_]*') if path.is_dir())
    parser.add_argument('--families', nargs='+', choices=known, default=known, metavar='NAME')
    parser.add_argument('--out', type=Path, metavar='FILE', help='write the table there as well')
    args = parser.parse_args()
    os.environ['CUDA_VISIBLE_DEVICES'] = ''  # the comparison is of processors
    table = Table(*COLUMNS, box=box.MARKDOWN)
    for family in track(args.families, console=Console(stderr=True)):
        row = measure_apart(family)
        table.add_row(*(row.get(column, '') for column in COLUMNS))
    text = table_as_text(table, width=1000)
    print(text)
    if args.out:  # columns need no width there
        args.out.write_text(re.sub(r' +\|', ' |', re.sub('-{4,}', '---', text)) + '\n')


if __name__ == '__main__':
    main()
