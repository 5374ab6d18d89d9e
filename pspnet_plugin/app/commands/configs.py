"""``pspnet config``, ``inspect`` and ``freezing``: what a config says, loads and freezes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mmengine.config import DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from ...errors import PspnetPluginError
from ...pretrained.errors import PretrainedWeightsError
from ...pretrained.hook import find_module
from ...pretrained.load import load_pretrained
from ...pretrained.planned_loads import planned_loads, refuse_timm_weights
from ...pretrained.settings import LoadSettings
from ...utils.config_files import config_names, read_config
from ...utils.datasets import scope_of
from ...utils.files import write_text
from ...utils.text import one_line, without_warnings_of_mmseg
from ..reports.preview import as_table, draw, preview


class KeyValueAction(DictAction):
    """mmengine's ``KEY=VALUE ...``, where anything else is an error of the command line."""

    def __call__(self, parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
        try:
            super().__call__(parser, *args, **kwargs)
        except ValueError:
            parser.error('--cfg-options takes KEY=VALUE')


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``config`` and ``--cfg-options``, as in MMSegmentation's tools."""
    parser.add_argument('config', help="a config file, or the name of one of the plugin's")
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=KeyValueAction,
        default={},
        metavar='KEY=VALUE',
        help='change settings of the config, such as model.backbone.depth=18',
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', nargs='?', help='a name of the list, or any config file')
    parser.add_argument('--out', type=Path, help='write the config to this file, to edit it there')


def run_config(arguments: argparse.Namespace) -> int:
    """List the configs, or print or write the whole of one, with what it inherits."""
    out = arguments.out
    if arguments.name is None:
        print('\n'.join(config_names()))
        return 0
    text = read_config(arguments.name, with_model=False).pretty_text
    if out is None:
        print(text, end='')
        return 0
    if out.exists():
        raise PspnetPluginError(f'{out} is there already: name another file.')
    write_text(out, text)
    print(f'written: {out}')
    return 0


def add_freezing(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument('--out', help='also write the timeline as an image (.png, .svg, .pdf)')


def run_freezing(arguments: argparse.Namespace) -> int:
    """Print the timeline of a config, and draw it where ``--out`` says."""
    config = read_config(arguments.config, arguments.cfg_options)
    try:
        shown = preview(config)
        print(as_table(shown))
        if arguments.out:
            draw(shown, arguments.out)
            print(f'written: {arguments.out}')
    except (PspnetPluginError, OSError):
        raise
    except Exception as error:  # whatever mmengine raises for a config that it cannot build
        raise PspnetPluginError(f'{arguments.config}: {one_line(error)}') from error
    return 0


# --- inspect ------------------------------------------------------------------------------------


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
    shown = [
        show_load(find_module(model, name)[1], name, {**settings, **changed})
        for name, settings in loads
    ]
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


def show_load(module: nn.Module, name: str, settings: dict[str, Any]) -> bool:
    """Load weights and print the report; whether a run would go on."""
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
