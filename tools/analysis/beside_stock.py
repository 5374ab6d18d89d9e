"""A config of MMSegmentation, stock and with ``pspnet_plugin.accelerate``: numbers and seconds."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import statistics
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Callable, Union

import torch
from family_models import batch_of, build, prepared, randomize, typical_config, without_ignored
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from pspnet_plugin.compat import runner as callbacks
from pspnet_plugin.replacements import REPLACEMENTS
from pspnet_plugin.utils.text import first_line

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmark.settings import Settings
from benchmark.timing import time_alternately

# What is compared. Batch norms of 1 x 1 maps, of two images, would make much of any rounding.
SIZE, IMAGES = 64, 8
TIMED_SIZE, RUNS = 512, 3
# A gradient that is zero but for rounding is compared with this part of the largest of all.
SMALL = 1e-3
Outcome = Union[float, str]  # a number, or why there is none


@dataclass
class Measured:
    """A row of the table; ``training`` and ``prediction`` are the largest relative differences."""

    family: str
    config: str = ''
    builds: str = ''  # why not; empty for a model that is built
    replaced: list[str] = field(default_factory=list)
    training: Outcome = ''
    prediction: Outcome = ''
    faster: Outcome = ''
    remarks: list[str] = field(default_factory=list)  # warnings of the hooks


def measure(family: str) -> Measured:
    """Everything about one family, in this process."""
    result, unread = Measured(family), []
    try:
        result.config, cfg = typical_config(family, unread)
        compare(cfg, result)
    except Exception as error:  # whatever a config or a class raises is a result
        # A config that cannot be read says better than its neighbour's model what is missing.
        result.builds = reason((*unread, error)[0])
    return result


def reason(error: BaseException) -> str:
    text = f'{type(error).__name__}: {first_line(error)}'
    return textwrap.shorten(text, 160, placeholder=' ...').replace('|', '/')


def compare(cfg: Config, result: Measured) -> None:
    """Compare a step and a prediction in float64, then time predictions in float32."""
    init_default_scope('mmseg')
    torch.set_default_dtype(torch.float64)  # of what a model makes itself, such as coordinates
    compare_at(SIZE, IMAGES, cfg, result)
    if str(result.prediction).startswith('stock fails'):  # pools that want a larger map
        compare_at(TIMED_SIZE, 2, cfg, result)
    torch.set_default_dtype(torch.float32)
    runners = build_both(prepared(cfg, TIMED_SIZE))
    classes = last_head(runners[0].model).num_classes
    result.faster = ratio(runners, batch_of(1, TIMED_SIZE, classes))


def compare_at(size: int, images: int, cfg: Config, result: Measured) -> None:
    runners = build_both(prepared(cfg, size))
    models = [runner.model for runner in runners]
    result.replaced = replaced_heads(*models)
    warnings = BufferingHandler(capacity=1000)
    warnings.setLevel(logging.WARNING)
    runners[1].logger.addHandler(warnings)
    batch = batch_of(images, size, last_head(models[0]).num_classes)
    result.prediction = difference(predict, runners, batch)
    result.training = difference(train, runners, batch)
    result.remarks = []
    if 'IndexError' in str(result.training):  # class weights have none for ignored pixels
        result.remarks.append(f'compared without ignored pixels: {result.training}')
        result.training = difference(train, runners, without_ignored(batch))
    result.remarks += dict.fromkeys(record.getMessage() for record in warnings.buffer)


def build_both(cfg: Config) -> list[Runner]:
    """The stock and the accelerated model of a config, of the same weights, with their runners."""
    torch.manual_seed(0)
    stock = build(cfg)
    randomize(stock)
    runners = [runner_of(stock)]
    with accelerated():
        ours = build(cfg)
        ours.load_state_dict(stock.state_dict(), strict=True)
        return [*runners, runner_of(ours)]


@contextlib.contextmanager
def accelerated() -> Iterator[None]:
    """Within this context the names of stock classes build the plugin's."""
    names, hooks = MODELS._module_dict.copy(), callbacks.added_hooks.copy()
    import pspnet_plugin.accelerate

    pspnet_plugin.accelerate.enable()
    try:
        yield
    finally:
        MODELS._module_dict.update(names)
        callbacks.added_hooks[:] = hooks


def runner_of(model: nn.Module) -> Runner:
    """mmengine's runner of a model, with no hooks but those that accelerate adds."""
    names = 'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'
    return Runner(
        model=model,
        work_dir='.',
        default_hooks=dict.fromkeys(names),
        default_scope='mmseg',
        experiment_name=f'with {len(callbacks.added_hooks)} hooks',
    )


def replaced_heads(stock: nn.Module, ours: nn.Module) -> list[str]:
    """The stock classes inside a segmentor that are others in the accelerated one."""
    pairs = zip(list(stock.modules())[1:], list(ours.modules())[1:])
    names = [type(one).__name__ for one, other in pairs if type(one) is not type(other)]
    return [name for name in dict.fromkeys(names) if name in REPLACEMENTS]


def last_head(segmentor: nn.Module) -> nn.Module:
    head = segmentor.decode_head
    return head[-1] if isinstance(head, nn.ModuleList) else head


def difference(run: Callable, runners: list[Runner], batch: dict) -> Outcome:
    """The largest relative difference of what ``run`` returns of both, or who failed and why."""
    results = []
    for name, runner in zip(('stock', 'accelerated'), runners):
        torch.manual_seed(1)
        try:
            results.append(run(runner, copy.deepcopy(batch)))
        except Exception as error:  # a failure of either is a result
            return f'{name} fails: {reason(error)}'
    return relative_difference(*results)


def relative_difference(expected: dict[str, Tensor], actual: dict[str, Tensor]) -> float:
    """Of each tensor, to its largest value; infinite where labels differ or one has no partner."""
    if expected.keys() != actual.keys():
        return math.inf
    floats = [v for v in expected.values() if v.is_floating_point() and v.dim()]  # not the losses
    smallest = SMALL * max((value.abs().max().item() for value in floats), default=0)
    return max(
        (_relative(value, actual[name], smallest) for name, value in expected.items()),
        key=lambda one: math.inf if math.isnan(one) else one,  # NaN is the worst of all
    )


def _relative(expected: Tensor, actual: Tensor, smallest: float) -> float:
    if expected.shape != actual.shape:
        return math.inf
    if torch.equal(expected, actual):
        return 0.0
    if not expected.is_floating_point():
        return math.inf
    return ((actual - expected).abs().max() / expected.abs().max().clamp(min=smallest)).item()


class Backward(OptimWrapper):
    """Computes gradients and leaves them, and the weights, as they are."""

    def update_params(self, loss: Tensor, **kwargs: object) -> None:
        self.backward(loss)


def train(runner: Runner, batch: dict) -> dict[str, Tensor]:
    """Losses and gradients of one training step."""
    runner.call_hook('before_train')
    runner.call_hook('before_train_iter', batch_idx=0, data_batch=batch)
    runner.model.train()
    optimizer = Backward(torch.optim.SGD(runner.model.parameters(), lr=0.0))
    losses = runner.model.train_step(batch, optim_wrapper=optimizer)
    named = runner.model.named_parameters()
    gradients = {name: value.grad for name, value in named if value.grad is not None}
    return {**{name: torch.as_tensor(value) for name, value in losses.items()}, **gradients}


@torch.no_grad()
def predict(runner: Runner, batch: dict) -> dict[str, Tensor]:
    """Label maps as they are predicted, and logits as they are predicted for one who asks."""
    runner.model.zero_grad(set_to_none=True)
    runner.model.eval()
    start_test(runner)
    model, stated = runner.model, runner.model.test_cfg
    runner.call_hook('before_test_iter', batch_idx=0, data_batch=batch)
    results = dict(tensors_of('label map', model.test_step(copy.deepcopy(batch))))
    model.test_cfg = ConfigDict({**(stated or {}), 'seg_logits': True})
    results.update(tensors_of('asked', model.test_step(batch)))
    model.test_cfg = stated
    runner.call_hook('after_test_epoch', metrics={})
    return results


def start_test(runner: Runner) -> None:
    runner.call_hook('before_test')
    runner.call_hook('before_test_epoch')


def tensors_of(name: str, samples: list[SegDataSample]) -> Iterator[tuple[str, Tensor]]:
    """What was predicted; without the logits, which accelerate leaves out unless asked."""
    for place, sample in enumerate(samples):
        for key, value in sample.items():
            if not key.startswith('gt_') and (key != 'seg_logits' or name == 'asked'):
                yield f'{name} {place} {key}', value.data


@torch.no_grad()
def ratio(runners: list[Runner], batch: dict) -> Outcome:
    """How many times as fast the accelerated model predicts a larger image in float32."""
    steps = {}
    for name, runner in zip(('stock', 'accelerated'), runners):
        runner.model.eval()
        start_test(runner)
        runner.call_hook('before_test_iter', batch_idx=0, data_batch=batch)
        steps[name] = lambda model=runner.model: model.test_step(batch)
    settings = Settings(runs=RUNS)
    try:
        seconds = time_alternately(steps, settings, ('accelerated',))
    except Exception as error:  # a failure is a result
        return reason(error)
    stock, ours = (statistics.median(seconds[name]) for name in steps)
    return stock / ours
