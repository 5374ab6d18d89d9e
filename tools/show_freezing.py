#!/usr/bin/env python
"""Show which layers a config freezes, and when; the same as ``pspnet freezing``."""

import sys

from pspnet_plugin.app.commands import main

if __name__ == '__main__':
    sys.exit(main(['freezing', *sys.argv[1:]]))
