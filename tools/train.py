#!/usr/bin/env python
"""Train a model; the same as ``pspnet train``."""

import sys

from pspnet_plugin.app.commands import main

if __name__ == '__main__':
    sys.exit(main(['train', *sys.argv[1:]]))
