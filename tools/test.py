#!/usr/bin/env python
"""Test a segmentor: MMSegmentation's own test tool, with the plugin's checks before it builds."""

import pspnet_plugin  # noqa: F401  registers, and repairs the stock stack before mmseg is imported
from pspnet_plugin.launch import run_stock_tool

if __name__ == '__main__':
    run_stock_tool('test.py')
