"""The benchmarks of ``pspnet benchmark``: ours beside stock MMSegmentation, by turns.

``heads`` and ``networks`` yield cases, and ``measuring`` makes rows of them.
"""

import os

os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # torch's profiler writes to the terminal otherwise
