"""``_base_ = 'pspnet_plugin::NAME.py'`` in any config: how mmengine finds the plugin's.

mmengine has a fixed table of packages for such names, wants a folder in them, and looks for an
editable installation in the wrong place. It resolves ``_base_`` before ``custom_imports`` run, so
the stock tools could not learn the name from the plugin's import alone: the installation places one
line in ``pspnet_plugin.pth``, which calls :func:`teach_on_import` when Python starts. This file
therefore imports next to nothing, and nothing happens until mmengine is imported.
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

SCOPE = 'pspnet_plugin::'
CONFIGS = os.path.join(os.path.dirname(os.path.abspath(__file__)), '.mim', 'configs')


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


def teach(config_class: type) -> None:
    """Let ``mmengine.config.Config`` resolve ``pspnet_plugin::``; twice is the same as once."""
    get_cfg_path = getattr(config_class, '_get_cfg_path', None)
    if get_cfg_path is None or hasattr(get_cfg_path, 'knows_pspnet_plugin'):
        return

    def find(cfg_path, filename):
        if cfg_path.startswith(SCOPE):
            # No scope for the registries: the plugin registers into mmseg's and mmengine's.
            return config_path(cfg_path[len(SCOPE) :]), None
        return get_cfg_path(cfg_path, filename)

    find.knows_pspnet_plugin = True
    config_class._get_cfg_path = staticmethod(find)


class _ConfigImport:
    """On ``sys.meta_path``: waits for the import of ``mmengine.config.config``, and teaches it."""

    def find_spec(self, name, path=None, target=None):
        if name != 'mmengine.config.config':
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        exec_module = spec.loader.exec_module

        def exec_module_and_teach(module):
            exec_module(module)
            teach(module.Config)

        spec.loader.exec_module = exec_module_and_teach
        return spec


def teach_on_import() -> None:
    """Call :func:`teach` as soon as mmengine's configs are imported, now if they are already."""
    module = sys.modules.get('mmengine.config.config')
    if module is None:
        sys.meta_path.insert(0, _ConfigImport())
    else:
        teach(module.Config)
