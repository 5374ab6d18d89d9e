"""``_base_ = 'pspnet_plugin::NAME.py'`` in any config.

Wrong: mmengine resolves such names for the packages in a table of its own only, wants a folder in
the name, and looks for an editable installation in the wrong place. Its fork looks for ``mmseg::``
in a distribution that is named otherwise.

Changed, for as long as the process runs: ``Config._get_cfg_path`` resolves names that begin with
``pspnet_plugin::``, and those that begin with ``mmseg::`` where ``onedl-mmsegmentation`` is
installed; all others go the stock way. The stock tools resolve ``_base_`` before they
import the plugin: a config for them says ``_base_ = __import__('pspnet_plugin').config_path(...)``.

Unnecessary as soon as mmengine finds the configs of any installed package.
"""

from __future__ import annotations

import functools

from mmengine.config import Config

from ..utils.config_files import SCOPE, config_of_fork, config_path


def patch() -> None:
    """Let ``mmengine.config.Config`` resolve ``pspnet_plugin::``."""
    get_cfg_path = Config._get_cfg_path

    @functools.wraps(get_cfg_path)
    def find(cfg_path: str, filename: str) -> tuple[str, str | None]:
        if cfg_path.startswith(SCOPE):
            # No scope for the registries: the plugin registers into mmseg's and mmengine's.
            return config_path(cfg_path[len(SCOPE) :]), None
        of_fork = config_of_fork(cfg_path)
        if of_fork is not None:
            return of_fork, 'mmseg'
        return get_cfg_path(cfg_path, filename)

    Config._get_cfg_path = staticmethod(find)
