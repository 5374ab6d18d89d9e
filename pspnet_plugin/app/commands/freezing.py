"""``pspnet freezing``: which layers a config freezes, when, and how fast the rest trains."""

from __future__ import annotations

import argparse

from ...errors import PspnetPluginError
from ...freezing.preview import as_table, draw, preview
from ...utils.config_files import read_config
from ...utils.text import one_line
from .config_file import add_config_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument('--out', help='also write the timeline as an image (.png, .svg, .pdf)')


def run(arguments: argparse.Namespace) -> int:
    """Print the timeline of a config, and draw it where ``--out`` says."""
    config = read_config(arguments.config, arguments.cfg_options)
    try:
        shown = preview(config)
        print(as_table(shown))
        if arguments.out:
            draw(shown, arguments.out)
            print(f'written: {arguments.out}')
    except (PspnetPluginError, OSError) as error:
        raise PspnetPluginError(str(error)) from error
    except Exception as error:  # whatever mmengine raises for a config that it cannot build
        raise PspnetPluginError(f'{arguments.config}: {one_line(error)}') from error
    return 0
