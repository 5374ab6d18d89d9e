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

import copy
import functools
import importlib.util
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.utils import is_installed

from ..errors import PspnetPluginError
from ..text import did_you_mean, one_line

SCOPE = 'pspnet_plugin::'
CONFIGS = Path(__file__).parents[1] / '.mim' / 'configs'


def config_path(name: str) -> str:
    """The file of the plugin's config ``name``, for example ``psp_r50_cityscapes.py``.

    Raises:
        FileNotFoundError: the plugin has no config of that name; the message lists those it has.
    """
    path = CONFIGS / name
    if not path.is_file():
        raise FileNotFoundError(
            f'pspnet_plugin has no config {name!r}.{did_you_mean(name, config_names())} '
            f'It has: {", ".join(config_names())}.'
        )
    return str(path)


def config_names() -> list[str]:
    """The names that :func:`config_path` takes, without those of the parts in ``_base_/``."""
    found = sorted(config.relative_to(CONFIGS).as_posix() for config in CONFIGS.rglob('*.py'))
    return [name for name in found if not name.startswith('_base_/')]


def find_config(name: str) -> str:
    """The file that ``name`` means: a path, or a config of the plugin with or without ``.py``.

    Raises:
        PspnetPluginError: there is neither.
    """
    if Path(name).is_file():
        return name
    own = name[len(SCOPE) :] if name.startswith(SCOPE) else name
    own = own if own.endswith('.py') else f'{own}.py'
    if own in config_names():
        return config_path(own)
    beside = [str(path) for path in Path(name).parent.glob('*.py')]
    hint = did_you_mean(name, beside) or did_you_mean(own, config_names())
    raise PspnetPluginError(
        f'The config {name} is no file.{hint} `pspnet config` lists those of the plugin.'
    )


def read_config(
    config: str | os.PathLike | Config, options: dict[str, Any] | None = None
) -> Config:
    """A copy of a config, or the one at a path, or the plugin's or mmseg's of a name.

    Args:
        options: dotted keys with the values that they get in it.

    Raises:
        PspnetPluginError: there is no such config, or it cannot be read.
    """
    name = str(config.filename) if isinstance(config, Config) else os.fspath(config)
    try:
        if isinstance(config, Config):
            read = copy.deepcopy(config)
        elif '::' in name and not name.startswith(SCOPE):
            read = get_config(name)
        else:
            read = Config.fromfile(find_config(name))
        read.merge_from_dict(options or {})
    except PspnetPluginError:
        raise
    except Exception as error:  # whatever the code in the file raises
        raise PspnetPluginError(f'{name}: {one_line(error)}') from error
    return read


def _mmseg_configs() -> Path:
    found = importlib.util.find_spec('mmseg')
    if found is None or found.origin is None:
        raise ModuleNotFoundError('mmseg is not installed: its configs cannot be found.')
    return Path(found.origin).parent / '.mim' / 'configs'


@functools.cache  # twice is the same as once
def patch() -> None:
    """Let ``mmengine.config.Config`` resolve ``pspnet_plugin::``."""
    get_cfg_path = Config._get_cfg_path

    @functools.wraps(get_cfg_path)
    def find(cfg_path, filename):
        if cfg_path.startswith(SCOPE):
            # No scope for the registries: the plugin registers into mmseg's and mmengine's.
            return config_path(cfg_path[len(SCOPE) :]), None
        if cfg_path.startswith('mmseg::') and not is_installed('mmsegmentation'):  # but its fork
            return str(_mmseg_configs() / cfg_path[len('mmseg::') :]), 'mmseg'
        return get_cfg_path(cfg_path, filename)

    Config._get_cfg_path = staticmethod(find)
