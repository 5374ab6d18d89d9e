#!/usr/bin/env python
"""Compare the plugin with stock MMSegmentation; the command line is ``benchmark/command.py``."""

import sys

from benchmark.command import main

if __name__ == '__main__':
    sys.exit(main())
