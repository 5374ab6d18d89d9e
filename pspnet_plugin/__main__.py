"""``python -m pspnet_plugin`` is the console command ``pspnet``."""

import sys

from .app.commands import main

if __name__ == '__main__':
    sys.exit(main())
