#!/usr/bin/env python
"""Measure the plugin beside stock MMSegmentation: the command is in ``benchmark/command.py``."""

import sys

from benchmark.command import main

if __name__ == '__main__':
    sys.exit(main())
