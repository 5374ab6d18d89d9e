#!/usr/bin/env python
"""Show which pretrained weights a config loads; the same as ``pspnet inspect``."""

import sys

from pspnet_plugin.app.commands import main

if __name__ == '__main__':
    sys.exit(main(['inspect', *sys.argv[1:]]))
