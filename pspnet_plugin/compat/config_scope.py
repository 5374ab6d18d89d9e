"""``_base_ = 'pspnet_plugin::NAME.py'`` in any config: how mmengine finds the plugin's.

mmengine has a fixed table of packages for such names, wants a folder in them, and looks for an
editable installation in the wrong place. Once the plugin is imported, the name works. The stock
tools resolve ``_base_`` before they import the plugin: a config for them says
``_base_ = __import__('pspnet_plugin').config_path('NAME.py')``.
"""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.config import Config

SCOPE = 'pspnet_plugin::'
CONFIGS = str(Path(os.path.abspath(__file__)).parents[1] / '.mim' / 'configs')


def config_path(name: str) -> str:
    """The file of the plugin's config ``name``, for example ``psp_r50_cityscapes.py``.

    Raises:
        FileNotFoundError: the plugin has no config of that name; the message lists those it has.
    """
    path = os.path.join(CONFIGS, name)
    if not os.path.isfile(path):
        found = (
            os.path.relpath(os.path.join(folder, file), CONFIGS)
            for folder, _, files in os.walk(CONFIGS)
            for file in files
            if file.endswith('.py')
        )
        known = ', '.join(sorted(file for file in found if not file.startswith('_base_')))
        raise FileNotFoundError(f'pspnet_plugin has no config {name!r}. It has: {known}.')
    return path


def patch() -> None:
    """Let ``mmengine.config.Config`` resolve ``pspnet_plugin::``; twice is the same as once."""
    get_cfg_path = Config._get_cfg_path
    if hasattr(get_cfg_path, 'knows_pspnet_plugin'):
        return

    def find(cfg_path, filename):
        if cfg_path.startswith(SCOPE):
            # No scope for the registries: the plugin registers into mmseg's and mmengine's.
            return config_path(cfg_path[len(SCOPE) :]), None
        return get_cfg_path(cfg_path, filename)

    find.knows_pspnet_plugin = True
    Config._get_cfg_path = staticmethod(find)
