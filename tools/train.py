#!/usr/bin/env python
"""Train a segmentor: MMSegmentation's own train tool, with the plugin's checks before it builds."""

import pspnet_plugin  # noqa: F401  registers, and repairs the stock stack before mmseg is imported
from pspnet_plugin.launch import run_stock_tool

if __name__ == '__main__':
    run_stock_tool('train.py')
