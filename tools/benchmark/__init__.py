"""The benchmarks of tools/benchmark.py.

Each of head, loss, train, predict and freeze is one sub-command; the other modules serve them all.
"""

import pspnet_plugin  # noqa: F401  repairs the stock stack before mmseg is imported
