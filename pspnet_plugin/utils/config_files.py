"""Configs by path or by name: those of the plugin, and mmseg's."""

from __future__ import annotations

import argparse
import copy
import importlib.util
import inspect
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config, DictAction
from mmengine.utils import is_installed

from ..errors import PspnetPluginError
from .text import did_you_mean, one_line

SCOPE = 'pspnet_plugin::'
# What else than arguments of mmengine's Runner is read from the top of a config.
READ_BESIDE = (
    *('activation_checkpointing', 'compile', 'efficient_conv_bn_eval', 'sync_bn'),
    *('broadcast_buffers', 'detect_anomalous_params', 'find_unused_parameters'),
    *('model_wrapper_cfg', 'prepare_dataset', 'test_pipeline', 'tta_model', 'tta_pipeline'),
)
SUFFIXES = ('.py', '.yml', '.yaml', '.json')
PACKAGE = Path(__file__).parents[1]


def shipped(folder: str) -> Path:
    """``configs`` or ``tools``: inside an installed package, beside the package in a clone."""
    inside = PACKAGE / '.mim' / folder
    return inside if inside.is_dir() else PACKAGE.parent / folder


CONFIGS = shipped('configs')


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
        if Path(name).suffix not in SUFFIXES:
            raise PspnetPluginError(
                f'{name} is no config ({", ".join(SUFFIXES)}). The config comes first, then the '
                'checkpoint.'
            )
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


def config_of_fork(name: str) -> str | None:
    """The file of ``mmseg::NAME`` where a fork of MMSegmentation is installed; None otherwise.

    mmengine looks for it in a distribution that is named otherwise.
    """
    if not name.startswith('mmseg::') or is_installed('mmsegmentation'):
        return None
    found = importlib.util.find_spec('mmseg')
    if found is None or found.origin is None:
        raise ModuleNotFoundError('mmseg is not installed: its configs cannot be found.')
    return str(Path(found.origin).parent / '.mim' / 'configs' / name[len('mmseg::') :])


def require_model(cfg: Config) -> None:
    """Raise PspnetPluginError for a part of a config, such as one of a dataset alone."""
    if not isinstance(cfg.get('model'), Mapping):
        name = cfg.filename or 'The config'
        raise PspnetPluginError(f'{name} has no model = dict(...), of its own or by _base_.')


def read_config(
    config: str | os.PathLike | Config,
    options: dict[str, Any] | None = None,
    with_model: bool = True,
) -> Config:
    """A copy of a config, or the one at a path, or the plugin's or mmseg's of a name.

    Args:
        options: dotted keys with the values that they get in it.
        with_model: whether one without a model is an error.

    Raises:
        PspnetPluginError: there is no such config, or it cannot be read.
    """
    name = str(config.filename) if isinstance(config, Config) else os.fspath(config)
    try:
        if isinstance(config, Config):
            read = copy.deepcopy(config)
        elif '::' in name and not name.startswith(SCOPE):
            read = Config.fromfile(config_of_fork(name) or Config._get_cfg_path(name, name)[0])
        else:
            read = Config.fromfile(find_config(name))
        read.merge_from_dict(options or {})
        if options:
            require_read(read, options)
    except PspnetPluginError:
        raise
    except Exception as error:  # whatever the code in the file raises
        raise PspnetPluginError(f'{name}: {one_line(error)}') from error
    if with_model:
        require_model(read)
    return read


class KeyValueAction(DictAction):
    """mmengine's ``--cfg-options KEY=VALUE ...``, where anything else ends the command line.

    mmengine takes a dict for text or for a list of texts, or finds no end of it.
    """

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, *args: Any
    ) -> None:
        for word in values:
            key, _, value = word.partition('=')
            if value.lstrip('[(\'" ').startswith(('dict(', '{')):
                parser.error(f'--cfg-options {key} takes no dict: set {key}.NAME=VALUE for each')
        try:
            super().__call__(parser, namespace, values, *args)
        except (ValueError, AssertionError):  # no "=", or brackets without their others
            parser.error('--cfg-options takes KEY=VALUE')


def require_read(cfg: Config, options: Iterable[str]) -> None:
    """Raise PspnetPluginError for an option that changes nothing.

    Options come after everything that a config computes: a variable from which other settings were
    made has no effect any more, nor has a name that nobody knows.

    Args:
        cfg: with the options in it.
        options: their dotted keys.
    """
    from mmengine.runner import Runner

    known = {*inspect.signature(Runner.__init__).parameters, *READ_BESIDE} - {'self', 'cfg'}
    if 'data_preprocessor' in cfg.get('model', {}):  # which comes before the one beside the model
        known.remove('data_preprocessor')
    text = re.sub('#.*', '', cfg.text)
    for key in options if text else ():
        name = key.partition('.')[0]
        if name not in known and re.search(rf'\b{re.escape(name)}\b(?!\s*=[^=])', text):
            raise PspnetPluginError(
                f'--cfg-options {key} would change nothing: what follows from {name} was computed '
                f'before. Change {name} in a copy of {cfg.filename}, or change the settings '
                'themselves, such as train_cfg.max_iters.'
            )
        if name not in known and not re.search(rf'\b{re.escape(name)}\b', text):
            raise PspnetPluginError(
                f'--cfg-options {key} would change nothing: nobody reads {name}.'
                f'{did_you_mean(name, known)}'
            )
