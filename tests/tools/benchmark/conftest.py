"""Makes the package ``tools/benchmark`` importable, as Python does for ``tools/benchmark.py``."""

import sys

from tests.helpers.processes import ROOT

# At the end: before the standard library, tools/test.py would hide the module ``test``.
sys.path.append(str(ROOT / 'tools'))
