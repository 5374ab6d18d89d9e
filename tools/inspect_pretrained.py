#!/usr/bin/env python
"""Print which pretrained weights a config loads and what becomes of each, without training.

Exits with 1 where a run would stop: the weights are missing, unsafe, or cover too little.
"""

from __future__ import annotations

import argparse
import sys

from mmengine.config import Config, DictAction
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, init_default_scope

import pspnet_plugin  # noqa: F401  registers, and repairs the stock stack before mmseg is imported
from pspnet_plugin import PspnetPluginError
from pspnet_plugin.pretrained import PretrainedWeightsError, load_pretrained
from pspnet_plugin.pretrained.comparison import compare
from pspnet_plugin.pretrained.hook import find_module
from pspnet_plugin.pretrained.inspection import planned_loads

TOLERANCE = 1e-5


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('config')
    parser.add_argument('--checkpoint', help='take this reference instead of the one in the config')
    parser.add_argument('--module', help='only this part of the model, such as backbone')
    parser.add_argument(
        '--compare',
        action='store_true',
        help="compare the features with the source library's own model on one input",
    )
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, default={})
    return parser.parse_args()


def show_comparison(module, report, settings) -> bool:
    differences = compare(module, report, settings.get('trust_pickle', False))
    if not differences:
        print(f'comparison: no installed library has its own model for {report.conversion} here')
    for stage, difference in differences.items():
        print(f'comparison: {stage} differs from the library by {difference:.1e} (relative)')
    return all(difference <= TOLERANCE for difference in differences.values())


def main() -> int:
    arguments = parse_arguments()
    config = Config.fromfile(arguments.config)
    config.merge_from_dict(arguments.cfg_options)
    init_default_scope(config.get('default_scope', 'mmseg'))
    model = revert_sync_batchnorm(MODELS.build(config.model))
    loads = planned_loads(config, model)
    wanted = arguments.module
    if arguments.checkpoint:
        named = [load for load in loads if wanted in (None, load[0])] or [
            (wanted or 'backbone', {})
        ]
        # The hash in the config is that of the file in the config.
        changed = {'checkpoint': arguments.checkpoint, 'sha256': None}
        loads = [(name, {**settings, **changed}) for name, settings in named]
    elif wanted is not None:
        loads = [load for load in loads if load[0] == wanted]
    if not loads:
        print(f'{arguments.config} loads no pretrained weights.')
    good = True
    for name, settings in loads:
        module = find_module(model, name)[1]
        try:
            report = load_pretrained(module, **settings)
        except PretrainedWeightsError as error:
            if error.report is not None and error.report.expected:
                print(error.report)
            print(f'error: {error}', file=sys.stderr)
            good = False
            continue
        print(f'[{name}]\n{report}')
        good = good and (not arguments.compare or show_comparison(module, report, settings))
    return 0 if good else 1


if __name__ == '__main__':
    try:
        sys.exit(main())
    except PspnetPluginError as error:
        sys.exit(f'error: {error}')
