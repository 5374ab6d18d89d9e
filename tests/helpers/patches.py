"""What the plugin changes in other packages, found in a process of its own and printed as JSON.

``python -m tests.helpers.patches [CODE [FIRST]]`` runs ``FIRST`` and imports the stock stack, then
the plugin and ``pspnet_plugin.accelerate``. It looks at every module and class that is loaded, once
before and once after it runs ``CODE``.
"""

from __future__ import annotations

import functools
import importlib
import json
import sys
import types
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = 'pspnet_plugin'
# What the plugin could change and what can be imported without it.
STOCK = [
    'torch',
    'torch.hub',
    'torch.utils.model_zoo',
    'torchvision',
    'huggingface_hub',
    'pooch',
    'timm',
    'safetensors.torch',
    'mmcv.cnn',
    'mmengine.dist',
    'mmengine.hooks',
    'mmengine.optim',
    'mmengine.registry',
    'mmengine.runner',
    'mmengine.runner.activation_checkpointing',
    'mmengine.visualization',
    'mmseg.registry',
    'mmseg.structures',
]


def find_patches(code: str = '', first: str = '') -> Iterator[dict[str, list[str]]]:
    """Dotted names that are replaced (``patched``), and names of ``MODELS`` (``registered``)."""
    exec(first, {})
    for name in STOCK:
        importlib.import_module(name)
    before = dict(attributes())
    importlib.import_module(PACKAGE)
    registered = dict(registrations())
    importlib.import_module(f'{PACKAGE}.accelerate')
    yield differences(before, registered)
    exec(code, {})
    yield differences(before, registered)


def differences(before: dict, registered: dict) -> dict[str, list[str]]:
    patched = {
        name
        for name, value in attributes()
        if any(map(made_by_the_plugin, inside(value)))
        or (callable(before.get(name)) and before[name] is not value)
    }
    again = {key for key, value in registrations() if value is not registered.get(key, value)}
    return {'patched': sorted(patched), 'registered': sorted(again)}


def attributes() -> Iterator[tuple[str, object]]:
    """Dotted name and value of all that stands in modules and classes of other packages."""
    for name, module in list(sys.modules.items()):
        if name.split('.')[0] in (PACKAGE, 'tests', '__main__'):
            continue
        for attribute, value in list(getattr(module, '__dict__', {}).items()):
            yield f'{name}.{attribute}', value
            if isinstance(value, type) and value.__module__ == name:
                yield from attributes_of_class(value, f'{name}.{attribute}')


def attributes_of_class(cls: type, dotted: str) -> Iterator[tuple[str, object]]:
    for attribute, value in list(vars(cls).items()):
        yield f'{dotted}.{attribute}', value
        if isinstance(value, type) and value.__qualname__ == f'{cls.__qualname__}.{attribute}':
            yield from attributes_of_class(value, f'{dotted}.{attribute}')


def made_by_the_plugin(value: object) -> bool:
    """Whether ``value``, or a function that it wraps or calls, comes from the plugin's files.

    The file of a function's code tells; ``functools.wraps`` gives it the ``__module__`` of another.
    """
    if isinstance(value, types.FunctionType):
        wrapped = vars(value).get('__wrapped__')
        return is_file_of_the_plugin(value.__code__.co_filename) or made_by_the_plugin(wrapped)
    if isinstance(value, (staticmethod, classmethod, types.MethodType)):
        return made_by_the_plugin(value.__func__)
    if isinstance(value, property):
        return any(map(made_by_the_plugin, (value.fget, value.fset, value.fdel)))
    if isinstance(value, functools.partial):
        return any(map(made_by_the_plugin, (value.func, *value.args, *value.keywords.values())))
    kind = value if isinstance(value, type) else type(value)
    return str(kind.__module__).split('.')[0] == PACKAGE


def is_file_of_the_plugin(path: str) -> bool:
    return Path(path).is_relative_to(Path(sys.modules[PACKAGE].__file__).parent)


def inside(value: object) -> list:
    """What stands in a table or a list of functions, or ``value`` itself."""
    if type(value) in (dict, OrderedDict) and value is not sys.modules:
        return list(value.values())
    return list(value) if type(value) in (list, tuple, set) else [value]


def registrations() -> Iterator[tuple[str, type]]:
    """Dotted name and class of all that is registered in mmengine's and mmseg's registries."""
    from mmengine.registry import Registry

    for name in ('mmengine.registry', 'mmseg.registry'):
        for registry, value in vars(sys.modules[name]).items():
            if isinstance(value, Registry):
                for key, registered in value.module_dict.items():
                    yield f'{name}.{registry}.{key}', registered


if __name__ == '__main__':
    print(json.dumps(list(find_patches(*sys.argv[1:]))))
