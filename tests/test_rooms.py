"""Which folder of the package may import which."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

from tests.helpers.processes import ROOT, run_python

PACKAGE = ROOT / 'pspnet_plugin'
FILES = list(PACKAGE.rglob('*.py'))
PROMISES = ('heads', 'pretrained', 'freezing')


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {module_of(path): path for path in FILES}


def imports_of(path: Path) -> set[str]:
    """The modules of the package that a file imports when it is imported or later."""
    package = '.'.join(path.parent.relative_to(ROOT).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.ImportFrom) and node.level:
            parent = package.split('.')[: len(package.split('.')) - node.level + 1]
            module = '.'.join([*parent, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f'{module}.{alias.name}'
                found.add(inner if inner in MODULES else module)
    return found


def room_of(module: str) -> str:
    return module.split('.')[1] if '.' in module else ''


IMPORTS = {module: imports_of(path) for module, path in MODULES.items()}


def test_the_core_does_not_import_the_application():
    faces = ('pspnet_plugin', 'pspnet_plugin.__main__')  # look up names, start the command
    for module, imported in IMPORTS.items():
        if room_of(module) != 'app' and module not in faces:
            assert not [name for name in imported if room_of(name) == 'app'], module


def test_heads_pretrained_weights_and_freezing_do_not_import_each_other():
    for module, imported in IMPORTS.items():
        if room_of(module) in PROMISES:
            others = [name for name in PROMISES if name != room_of(module)]
            assert not [name for name in imported if room_of(name) in others], module


def test_no_modules_import_each_other_in_a_circle():
    # The package's own __init__ looks names of app/ up when they are asked for.
    graph = {name: found for name, found in IMPORTS.items() if name != 'pspnet_plugin'}
    TopologicalSorter(graph).prepare()  # raises CycleError


def test_importing_the_plugin_does_not_import_the_application():
    program = (
        'import sys, pspnet_plugin, pspnet_plugin.accelerate\n'
        'print([name for name in sys.modules if name.startswith("pspnet_plugin.app")])'
    )
    code, output = run_python('-c', program)
    assert code == 0
    assert output.strip().endswith('[]')


def test_names_of_the_application_are_found_at_the_top():
    import pspnet_plugin

    for name in pspnet_plugin.__all__:
        assert getattr(pspnet_plugin, name) is not None
