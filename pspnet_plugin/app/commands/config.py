"""``pspnet config``: the plugin's configs, as text to read or as a file to edit."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import PspnetPluginError
from ...utils.config_files import config_names, read_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('name', nargs='?', help='a name of the list, or any config file')
    parser.add_argument('--out', type=Path, help='write the config to this file, to edit it there')


def run(arguments: argparse.Namespace) -> int:
    """List the configs, or print or write the whole of one, with what it inherits."""
    if arguments.name is None:
        print('\n'.join(config_names()))
        return 0
    text = read_config(arguments.name).pretty_text
    if arguments.out is None:
        print(text, end='')
        return 0
    if arguments.out.exists():
        raise PspnetPluginError(f'{arguments.out} is there already: name another file.')
    try:
        arguments.out.write_text(text, encoding='utf-8')
    except OSError as error:
        raise PspnetPluginError(f'{arguments.out} cannot be written: {error.strerror}.') from error
    print(f'written: {arguments.out}')
    return 0
