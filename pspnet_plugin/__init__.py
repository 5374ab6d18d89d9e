"""PSPNet for MMSegmentation: exact fast heads, pretrained weights that load, layers that freeze.

Importing the package repairs what the stock stack needs (:mod:`pspnet_plugin.compat`) and registers
everything below, so a config only says ``custom_imports = dict(imports=['pspnet_plugin'])``.
"""

import importlib.util

from . import compat
from .errors import PspnetPluginError

__version__ = '0.1.0'
__all__ = ['PspnetPluginError', '__version__']

compat.apply()

if importlib.util.find_spec('mmseg') is not None:
    from .heads import FactorizedPSPHead
    from .labels import CheckLabels

    __all__ += ['CheckLabels', 'FactorizedPSPHead']
