"""A config and a checkpoint -> a model of mmseg that is ready to predict, and fast."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS
from torch import nn

from ..errors import PredictionError
from ..pretrained import load_pretrained
from ..pretrained.errors import PretrainedWeightsError
from ..replacements import REPLACEMENTS, means_stock
from ..speed.channels_last import set_memory_format
from ..speed.cpu_amp import bfloat16_on_this_cpu
from ..speed.examples import example_runs
from ..speed.folding import Run, fold_batch_norms
from ..speed.memory import keep_freed_memory
from ..utils.config_files import read_config
from ..utils.config_tree import dicts_within
from ..utils.datasets import class_info, scope_of
from ..utils.distributed import is_first_process
from ..utils.text import first_line, one_line, shortened, without_warnings_of_mmseg


def init_model(
    config: str | os.PathLike | Config,
    checkpoint: str | os.PathLike,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    compile: bool = False,
) -> nn.Module:
    """A segmentor of mmseg with the weights of a checkpoint, as fast as the plugin makes it.

    PSP and FCN heads, folded batch norms, channels-last, label maps without the full-size logits
    and, on CPUs, memory that is kept from image to image: the same labels up to rounding. Only this
    model is changed; kept memory alone is a matter of the process. The model has no auxiliary head.

    Args:
        config: a path, a ``Config``, or a name such as ``'psp_r50_cityscapes'`` or
            ``'mmseg::pspnet/….py'``. Pretrained weights that it names are not fetched.
        checkpoint: a path or a reference such as ``mmseg://MODEL-ZOO-NAME``.
        device: ``'cpu'``, ``'cuda:1'`` …; None for a GPU where there is one.
        dtype: ``'bfloat16'`` or, on GPUs, ``'float16'``: the forward pass runs under autocast.
            On CPUs the log says by which instructions, or that it will be slow.
        compile: compile backbone and head with ``torch.compile`` at their first image.

    Returns:
        The model in evaluation mode. ``model.cfg`` is the config, ``model.dataset_meta`` holds the
        ``classes`` and their ``palette``, ``model.weights_sha256`` the hash of the checkpoint.
        mmseg's ``inference_model`` takes it as well.

    Raises:
        PspnetPluginError: there is no such config.
        PredictionError: device or dtype are not understood, some weights are not in the
            checkpoint, or it is of a model with another number of classes.
        PretrainedWeightsError: the checkpoint cannot be read.
    """
    cfg = read_config(config)
    target = device_named(device)
    precision = dtype_named(dtype, target)
    model: Any = build_segmentor(cfg)
    meta, sha256 = load_weights(model, os.fspath(checkpoint))
    model = make_fast(revert_sync_batchnorm(model).to(target))
    for part in ('backbone', 'neck', 'decode_head') if compile else ():
        module = getattr(model, part, None)
        if isinstance(module, nn.Module):
            module.forward = torch.compile(module.forward)
    if precision is not None:
        if target.type == 'cpu' and is_first_process():
            print_log(bfloat16_on_this_cpu(), logger='current')
        model.forward = torch.autocast(target.type, dtype=precision)(model.forward)
    classes, palette = class_info(cfg, meta, last_head(model).num_classes)
    model.cfg, model.dataset_meta = cfg, {'classes': classes, 'palette': palette}
    model.weights_sha256, model.computes_in = sha256, str(precision or torch.float32)
    return model


def device_named(device: str | torch.device | None) -> torch.device:
    """The device of a name, checked."""
    try:
        target = torch.device(device or get_device())
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error).rstrip('.')
        raise PredictionError(f'device={str(device)!r}: {reason}. Use cpu, or cuda:N.') from error
    return target


def dtype_named(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """What autocast computes in; None for float32."""
    name = 'float32' if dtype is None else str(dtype).rpartition('.')[2]
    if name not in ('float32', 'bfloat16', 'float16'):
        raise PredictionError(f'dtype={dtype!r} is none of float32, bfloat16 and float16.')
    if name == 'float16' and device.type == 'cpu':
        raise PredictionError("dtype='float16' needs a GPU. On CPUs use bfloat16.")
    return None if name == 'float32' else getattr(torch, name)


# --- building -----------------------------------------------------------------------------------


def model_settings(cfg: Config) -> ConfigDict:
    """The model of a config without what only training needs, and so that nothing is downloaded."""
    settings = copy.deepcopy(cfg.model)
    for node in dicts_within(settings):
        if node.get('type') == 'TIMMBackbone':
            node['pretrained'] = False  # timm would download while it is built
    if cfg.get('data_preprocessor'):  # where mmengine's runner looks for it too
        settings.setdefault('data_preprocessor', cfg.data_preprocessor)
    for part in ('pretrained', 'auxiliary_head', 'train_cfg'):
        settings.pop(part, None)
    return settings


def build_segmentor(cfg: Config) -> nn.Module:
    """The segmentor of a config, with the plugin's classes where mmseg's compute the same."""
    settings = model_settings(cfg)
    for node in dicts_within(settings):
        if 'type' in node:
            node['type'] = replaced(node['type'])
    settings.test_cfg = ConfigDict({'seg_logits': False, **(settings.get('test_cfg') or {})})
    init_default_scope(scope_of(cfg))  # also for mmseg's own calls later
    try:
        with without_warnings_of_mmseg():
            return MODELS.build(settings)
    except Exception as error:  # whatever the classes in the config raise
        raise PredictionError(
            f'The model of the config cannot be built: {one_line(error)}'
        ) from error


def replaced(kind: Any) -> Any:
    """The plugin's class in place of a name of one of mmseg's; anything else as it is."""
    name = kind[len('mmseg.') :] if str(kind).startswith('mmseg.') else kind
    return REPLACEMENTS[name] if means_stock(name) else kind


def last_head(segmentor: Any) -> Any:
    """The decode head that predicts; a cascade has several."""
    head = segmentor.decode_head
    return head[-1] if isinstance(head, nn.ModuleList) else head


def load_weights(model: nn.Module, checkpoint: str) -> tuple[dict[str, Any], str]:
    """Load all of a model's weights from a checkpoint, and return its ``meta`` and its sha256.

    Raises:
        PretrainedWeightsError: the checkpoint cannot be read.
        PredictionError: one of the weights is not there, or is that of another number of classes.
    """
    try:
        report = load_pretrained(model, checkpoint, first_conv='error', min_coverage=1.0)
    except PretrainedWeightsError as error:
        if error.report is None or not (error.report.missing or error.report.mismatched):
            raise  # what is wrong may be the values
        missing, unused = error.report.missing, error.report.unexpected
        shapes = [f'{name} {a} for {b}' for name, (a, b) in error.report.mismatched.items()]
        groups = {'missing': missing, 'of another shape': shapes, 'unused': unused}
        told = [f'{what}: {shortened(names)}' for what, names in groups.items() if names]
        raise PredictionError(
            f"{checkpoint} has {error.report.received} of the model's {error.report.expected} "
            f'weights, and none may be random ({"; ".join(told)}). Use the config that it was '
            'trained with.'
        ) from error
    if report.reinitialized:
        name, story = next(iter(report.reinitialized.items()))
        raise PredictionError(
            f'{checkpoint} is of another number of classes than the config: {name} has {story}. '
            'Use the config that it was trained with, or set num_classes in the decode head.'
        )
    return report.meta, report.sha256


# --- speed --------------------------------------------------------------------------------------


@torch.no_grad()
def make_fast(model: nn.Module) -> nn.Module:
    """``model`` channels-last and without batch norms, each where that is possible."""
    model.eval()
    runs = example_runs(model)
    set_memory_format(model, torch.channels_last)
    try:
        runs[0](model)
    except Exception:  # whatever it is, the model may predict in the usual format
        set_memory_format(model, torch.contiguous_format)
    model = folded(model, runs)
    if next(model.parameters()).device.type == 'cpu':
        keep_freed_memory()
    return model


def folded(model: nn.Module, runs: list[Run]) -> nn.Module:
    """``model`` without batch norms, or as it is where they cannot be folded."""
    try:
        return fold_batch_norms(model, *runs)[0]
    except Exception as error:  # whatever it is, the model predicts without folding
        print_log(f'Batch norms are not folded: {error!r}', logger='current')
        return model
