"""``pspnet inspect``: which pretrained weights a config loads and what becomes of each.

Exits with 1 where a run would stop: the weights are missing, unsafe, or cover too little.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ...errors import PspnetPluginError
from ...pretrained.errors import PretrainedWeightsError
from ...pretrained.hook import find_module
from ...pretrained.load import load_pretrained
from ...pretrained.planned_loads import planned_loads, refuse_timm_weights
from ...pretrained.settings import LoadSettings
from ...utils.config_files import read_config
from ...utils.text import without_warnings_of_mmseg
from .config_file import add_config_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument('--checkpoint', help='take this reference instead of the one in the config')
    parser.add_argument(
        '--module', help="only this part of the model, such as backbone; '' is the whole model"
    )
    parser.add_argument('--sha256', help='the hash that the file must have, or its beginning')
    parser.add_argument(
        '--trust-pickle',
        action='store_true',
        help='read a file that holds more than data, although that can run its code',
    )


def build_model(config: Config) -> nn.Module:
    init_default_scope(config.get('default_scope', 'mmseg'))
    with without_warnings_of_mmseg():  # they would stand in front of each report
        return revert_sync_batchnorm(MODELS.build(config.model))


def named_part(arguments: argparse.Namespace) -> str:
    return 'backbone' if arguments.module is None else arguments.module


def wanted_loads(
    arguments: argparse.Namespace, config: Config, model: nn.Module
) -> list[tuple[str, dict[str, Any]]]:
    """What the config loads, as far as the command line asks for it and with its settings."""
    loads, wanted = planned_loads(config, model), arguments.module
    if wanted is not None:
        find_module(model, wanted)
        loads = [load for load in loads if load[0] == wanted]
    changed: dict[str, Any] = {}
    if arguments.checkpoint is not None:
        loads = loads or [(named_part(arguments), {})]
        changed['checkpoint'] = arguments.checkpoint
        if not any(key.rpartition('.')[2] == 'sha256' for key in arguments.cfg_options):
            # The hash in the config is that of the file in the config.
            changed['sha256'] = None
    if arguments.sha256 is not None:
        changed['sha256'] = arguments.sha256
    if arguments.trust_pickle:
        changed['trust_pickle'] = True
    return [(name, {**settings, **changed}) for name, settings in loads]


def show_load(module: nn.Module, name: str, settings: dict[str, Any]) -> bool:
    try:
        checked = LoadSettings.of('PretrainedBackbone', **settings)
        report = load_pretrained(module, **vars(checked))
    except PretrainedWeightsError as error:
        if error.report is not None:
            print(error.report)
        print(f'error: {error}', file=sys.stderr)
        return False
    print(f'[{name or "whole model"}]\n{report}')
    return True


def run(arguments: argparse.Namespace) -> int:
    """Print what there is to say; 0 if all of it is good, otherwise 1."""
    if arguments.checkpoint == '':
        raise PspnetPluginError(
            '--checkpoint is empty: name a file or a reference, or leave it out.'
        )
    config = read_config(arguments.config, arguments.cfg_options)
    named = [] if arguments.checkpoint is None else [named_part(arguments)]
    refuse_timm_weights(config, named)
    model = build_model(config)
    loads = wanted_loads(arguments, config, model)
    if not loads:
        part = {None: '', '': ' into the whole model'}.get(
            arguments.module, f' into {arguments.module}'
        )
        print(f'{arguments.config} loads no pretrained weights{part}.')
        return 0
    shown = [show_load(find_module(model, name)[1], name, settings) for name, settings in loads]
    return 0 if all(shown) else 1
