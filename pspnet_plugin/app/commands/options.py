"""Options that several sub-commands share."""

from __future__ import annotations

import argparse

from ...utils.config_files import KeyValueAction


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
