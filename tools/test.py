#!/usr/bin/env python
"""Measure a checkpoint on labelled images; the same as ``pspnet test``."""

import sys

from pspnet_plugin.app.commands import main

if __name__ == '__main__':
    sys.exit(main(['test', *sys.argv[1:]]))
