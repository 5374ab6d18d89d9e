"""``pspnet inspect``: which pretrained weights a config loads, and what becomes of each."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from ...errors import PspnetPluginError
from ...utils.config_files import read_config
from ...utils.datasets import scope_of
from ...utils.text import without_warnings_of_mmseg
from .options import add_config_arguments

if TYPE_CHECKING:
    from torch import nn


def add_inspect(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    add = parser.add_argument
    add('--checkpoint', help='take this reference instead of the one in the config')
    add('--module', help="only this part of the model, such as backbone; '' is the whole model")
    add('--sha256', help='the hash that the file must have, or its beginning')
    add(
        '--trust-pickle',
        action='store_true',
        help='read a file that holds more than data, although that can run its code',
    )


def run_inspect(arguments: argparse.Namespace) -> int:
    """Print what becomes of each file of weights; 1 where a run would stop, otherwise 0."""
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS, init_default_scope

    from ...pretrained.hook import find_module
    from ...pretrained.planned_loads import planned_loads, refuse_timm_weights

    if arguments.checkpoint == '':
        raise PspnetPluginError(
            '--checkpoint is empty: name a file or a reference, or leave it out.'
        )
    config = read_config(arguments.config, arguments.cfg_options)
    part = 'backbone' if arguments.module is None else arguments.module
    refuse_timm_weights(config, [] if arguments.checkpoint is None else [part])
    init_default_scope(scope_of(config))
    with without_warnings_of_mmseg():  # they would stand in front of each report
        model = revert_sync_batchnorm(MODELS.build(config.model))
    loads = planned_loads(config, model)
    if arguments.module is not None:
        find_module(model, part)  # which raises for a name that the model does not have
        loads = [load for load in loads if load[0] == part]
    if arguments.checkpoint is not None:
        loads = loads or [(part, {})]
    if not loads:
        into = '' if arguments.module is None else f' into {part or "the whole model"}'
        print(f'{arguments.config} loads no pretrained weights{into}.')
        return 0
    changed = changed_settings(arguments)
    shown = [show_load(model, name, {**settings, **changed}) for name, settings in loads]
    return 0 if all(shown) else 1


def changed_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says in place of the config."""
    changed: dict[str, Any] = {}
    if arguments.checkpoint is not None:
        changed['checkpoint'] = arguments.checkpoint
        if not any(key.rpartition('.')[2] == 'sha256' for key in arguments.cfg_options):
            changed['sha256'] = None  # The hash in the config is that of the file in the config.
    if arguments.sha256 is not None:
        changed['sha256'] = arguments.sha256
    if arguments.trust_pickle:
        changed['trust_pickle'] = True
    return changed


def show_load(model: nn.Module, name: str, settings: dict[str, Any]) -> bool:
    """Load weights into a part of ``model`` and print the report; whether a run would go on."""
    from ...pretrained.advice.pixels import note_pixels
    from ...pretrained.errors import PretrainedWeightsError
    from ...pretrained.hook import find_module
    from ...pretrained.load import load_pretrained
    from ...pretrained.settings import LoadSettings

    try:
        checked = LoadSettings.of('PretrainedBackbone', **settings)
        report = load_pretrained(find_module(model, name)[1], **vars(checked))
    except PretrainedWeightsError as error:
        if error.report is not None:
            print(error.report)
        print(f'error: {error}', file=sys.stderr)
        return False
    note_pixels(report, model)
    print(f'[{name or "whole model"}]\n{report}')
    return True
