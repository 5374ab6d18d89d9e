"""What tools/benchmark.py measures, and with what: one module for each sub-benchmark."""

import pspnet_plugin  # noqa: F401  repairs the stock stack before mmseg is imported
