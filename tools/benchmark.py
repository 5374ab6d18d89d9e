#!/usr/bin/env python
"""Measure the plugin beside stock MMSegmentation; the same as ``pspnet benchmark``."""

import sys

from pspnet_plugin.app.commands import main

if __name__ == '__main__':
    sys.exit(main(['benchmark', *sys.argv[1:]]))
