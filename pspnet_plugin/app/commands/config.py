"""``pspnet config``: the configs by their names, and one of them with what it inherits."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import PspnetPluginError
from ...utils.config_files import config_names, read_config
from ...utils.files import write_text


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
