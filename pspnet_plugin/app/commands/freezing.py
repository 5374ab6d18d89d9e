"""``pspnet freezing``: which layers a config freezes, and when."""

from __future__ import annotations

import argparse

from ...errors import PspnetPluginError
from ...utils.config_files import read_config
from ...utils.text import one_line
from .options import add_config_arguments


def add_freezing(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument('--out', help='also write the timeline as an image (.png, .svg, .pdf)')


def run_freezing(arguments: argparse.Namespace) -> int:
    """Print the timeline of a config, and draw it where ``--out`` says."""
    from ..reports.preview import as_table, draw, preview

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
