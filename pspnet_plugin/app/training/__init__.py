"""Training and testing by the stock tools: checks before a run, what it prints, when it stops."""

from __future__ import annotations

import argparse
import ast
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock


def stock_tools() -> Path:
    """The folder of the installed MMSegmentation's tools."""
    package: Any = importlib.util.find_spec('mmseg')  # importing it would import torch
    return Path(package.origin).parent / '.mim' / 'tools'


def print_stock_help(name: str) -> None:
    """Print the help of a stock tool and exit, by its own parser, without its import of torch."""
    file = stock_tools() / name
    parts = ast.parse(file.read_text('utf-8')).body
    parser = [part for part in parts if getattr(part, 'name', None) == 'parse_args']
    known: dict[str, Any] = {'argparse': argparse, 'os': os, 'DictAction': 'store'}
    exec(compile(ast.Module(parser, []), file, 'exec'), known)
    with mock.patch.object(sys, 'argv', [f'pspnet {name[:-3]}', '--help']):
        known['parse_args']()
