"""The documents are true: their configs build, their commands exist, their links lead somewhere."""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import importlib.util
import io
import os
import pkgutil
import re
import runpy
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch
from mmengine.config import Config
from mmengine.model import ImgDataPreprocessor
from mmengine.registry import HOOKS, WEIGHT_INITIALIZERS, DefaultScope
from mmseg.models import SegDataPreProcessor
from mmseg.registry import DATASETS, MODELS

import pspnet_plugin
from pspnet_plugin import freezing, pretrained, speed
from pspnet_plugin.app import prediction
from pspnet_plugin.app.commands import main
from pspnet_plugin.app.training import launch, stock_tools
from pspnet_plugin.utils import config_files
from pspnet_plugin.utils.config_tree import datasets_within, dicts_within
from tests.helpers.documents import (
    DOCUMENTS,
    TRANSLATIONS,
    code_blocks,
    command_lines,
    is_config,
    tokens,
    tool_calls,
)
from tests.helpers.processes import ROOT, run_script

# What a snippet without `_base_` is added to: the config that the reader has.
BASE = "_base_ = 'pspnet_plugin::psp_r50_cityscapes.py'\n"
# A path of this repository in running text or code, not the end of a longer path or address.
PATH = re.compile(r'(?<![\w/.:}-])(?:configs|docs|pspnet_plugin|tests|tools)/[\w./-]*[\w/]')
documents = pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.name)


SNIPPETS = [
    pytest.param(snippet, id=f'{document.name}-{number}')
    for document in DOCUMENTS
    for number, snippet in enumerate(code_blocks(document, 'python'), 1)
    if is_config(snippet)
]


# --- configs ------------------------------------------------------------------------------------


@pytest.mark.parametrize('snippet', SNIPPETS)
def test_config_in_a_document_builds(snippet, tmp_path):
    file = tmp_path / 'config.py'
    file.write_text(snippet if '_base_ =' in snippet else BASE + snippet, encoding='utf-8')
    # pspnet_plugin.accelerate would change the classes of all tests that follow.
    cfg = Config.fromfile(file, import_custom_modules=False)
    for module in cfg.custom_imports.imports:
        assert importlib.util.find_spec(module), module
    means = cfg.model.get('data_preprocessor', {}).get('mean') or []
    if len(means) > 3 and issubclass(SegDataPreProcessor, ImgDataPreprocessor):
        pytest.skip('the forks take one mean or three')
    with DefaultScope.overwrite_default_scope('mmseg'), torch.device('meta'):
        for hook in cfg.get('custom_hooks', ()):
            HOOKS.build(hook)
        for node in dicts_within(cfg.model):
            if node.get('type') == 'PretrainedBackbone':
                WEIGHT_INITIALIZERS.build(node)
        model = MODELS.build(cfg.model)
        for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
            for dataset in datasets_within(loader.dataset):
                DATASETS.build({**dataset, 'lazy_init': True})
                checks = [n for n in dicts_within(dataset) if n.get('type') == 'CheckLabels']
                counts = {check['num_classes'] for check in checks}
                # MMSegmentation's own configs have no CheckLabels.
                assert counts == {model.num_classes} or ('mmseg::' in snippet and not counts)


def test_documents_show_configs():
    assert len(SNIPPETS) >= 10


@pytest.mark.parametrize('chinese', TRANSLATIONS, ids=lambda path: path.name)
def test_every_translated_snippet_and_command_is_that_of_the_english_document(chinese):
    for language in ('python', 'bash'):
        english, translated = (
            [re.sub(r'\s*#.*', '', block) for block in code_blocks(document, language)]
            for document in (TRANSLATIONS[chinese], chinese)
        )
        assert translated == english


@pytest.mark.parametrize('chinese', TRANSLATIONS, ids=lambda path: path.name)
def test_every_translated_document_has_the_headings_of_the_english_one(chinese):
    def headings(document: Path) -> list[tuple[str, list[str]]]:
        """The level of each heading, and its code and error messages, which stay English."""
        following = zip(tokens(document), tokens(document)[1:])
        found = ((a.tag, b.children) for a, b in following if a.type == 'heading_open')
        return [(tag, [t.content for t in text if t.type == 'code_inline']) for tag, text in found]

    assert headings(chinese) == headings(TRANSLATIONS[chinese])


# --- links and paths ----------------------------------------------------------------------------


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of ``document``."""
    following = zip(tokens(document), tokens(document)[1:])
    headings = (text.content for token, text in following if token.type == 'heading_open')
    return {re.sub(r'[^\w\- ]', '', text.lower()).replace(' ', '-') for text in headings}


@documents
def test_every_relative_link_leads_to_a_file_and_a_heading(document):
    targets = [token.attrs.get('href') or token.attrs.get('src') for token in tokens(document)]
    for target in filter(None, targets):
        if '://' in target:
            continue
        name, _, anchor = unquote(target).partition('#')
        file = document.parent / name if name else document
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@documents
def test_every_path_of_the_repository_exists(document):
    text = document.read_text(encoding='utf-8')
    missing = [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    missing += [name for name in re.findall(r'\bpsp_\w+\.py', text) if not config(name).is_file()]
    assert missing == []


def config(name: str) -> Path:
    return ROOT / 'configs' / name


# --- commands -----------------------------------------------------------------------------------


class UnderstoodError(BaseException):  # no command takes it for an error of a config
    """Raised where a tool has parsed its command line, so that it does nothing more."""


@pytest.fixture
def parsing_alone(monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(*args, **settings):
        parse(*args, **settings)
        raise UnderstoodError

    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', parse_and_stop)
    for module in (config_files, launch):
        monkeypatch.setattr(module, 'find_config', str)  # The reader's configs are not here.


@documents
def test_every_command_in_a_code_block_is_understood_by_its_tool(document, parsing_alone):
    for tool, *words in tool_calls(command_lines(document, running_text=False)):
        try:
            with pytest.raises(UnderstoodError):
                main(words) if tool == 'pspnet' else run_script(ROOT / tool, *words)
        except SystemExit as end:
            pytest.fail(f'{tool} {words}: {end.code}')


@functools.cache
def options_of(tool: str, *subcommand: str) -> set[str]:
    """The options in what the tool prints for ``--help``, run in this process."""
    output = io.StringIO()
    if tool == 'pspnet':
        with contextlib.redirect_stdout(output), pytest.raises(SystemExit) as end:
            main([*subcommand, '--help'])
        assert not end.value.code, subcommand
        return set(re.findall(r'--[\w-]+', output.getvalue()))
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(output):
        patch.setattr(sys, 'argv', [tool, *subcommand, '--help'])
        patch.syspath_prepend((ROOT / tool).parent)
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / tool), run_name='__main__')
    assert not end.value.code, (tool, *subcommand)
    return set(re.findall(r'--[\w-]+', output.getvalue()))


@documents
def test_every_subcommand_and_option_is_in_the_help_of_its_tool(document):
    for tool, *arguments in tool_calls(command_lines(document)):
        count = {'tools/benchmark.py': 1, 'pspnet': 1 + (arguments[:1] == ['benchmark'])}
        subcommand = [word for word in arguments[: count.get(tool, 0)] if word[0] != '-']
        options = {argument for argument in arguments if argument.startswith('--')}
        if options or subcommand:
            assert options <= options_of(tool, *subcommand), tool


@documents
def test_every_other_command_names_what_exists(document):
    extras = set(re.findall(r"^        '(\w+)': ", (ROOT / 'setup.py').read_text(), re.M))
    for line in command_lines(document, running_text=False):
        words = [word for word in line if not re.match(r'[A-Z_]+=', word)]
        program, *arguments = words or ['make']
        if program.endswith('.sh'):
            assert os.access(ROOT / program, os.X_OK), program
        elif program == 'pip':
            for named in re.findall(r'[\w.-]+\[(\w+)\]', ' '.join(arguments)):
                assert named in extras, named
        elif '-m' in arguments:
            assert importlib.util.find_spec(arguments[arguments.index('-m') + 1]), line
        elif '-c' in arguments:
            ast.parse(arguments[-1])
        elif program == 'python':
            assert (ROOT / arguments[0]).is_file(), line
        else:  # Which have tests of their own.
            assert program in ('make', 'pspnet'), line


def test_documents_show_commands():
    assert sum(len(tool_calls(command_lines(document))) for document in DOCUMENTS) >= 20


@documents
def test_every_make_target_exists(document):
    targets = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M)
    named = [words[1] for words in command_lines(document) if words[:1] == ['make'] and words[1:]]
    assert [name for name in named if name not in targets] == []


# --- the first screen ---------------------------------------------------------------------------


def test_importing_the_plugin_leaves_a_model_that_does_not_name_it_as_it_is():
    name = 'pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
    cfg = Config.fromfile(stock_tools().parent / 'configs' / 'pspnet' / name)
    with DefaultScope.overwrite_default_scope('mmseg'), torch.device('meta'):
        model = MODELS.build(cfg.model)
    packages = {type(module).__module__.partition('.')[0] for module in model.modules()}
    assert 'mmseg' in packages
    assert 'pspnet_plugin' not in packages


# --- errors -------------------------------------------------------------------------------------


def headings_from_the_plugin() -> list[str]:
    """The messages that the second half of troubleshooting.md explains, `…` for what differs."""
    text = (ROOT / 'docs' / 'troubleshooting.md').read_text(encoding='utf-8')
    headings = re.findall(r'^### (.*)', text.partition('\n## From the plugin\n')[2], re.M)
    return [message for heading in headings for message in re.findall('`(.*?)`', heading)]


@functools.cache
def texts_of_the_plugin() -> list[str]:
    """Every text in the plugin's code, with `…` for each value that is put into it."""
    texts = []
    for file in (ROOT / 'pspnet_plugin').rglob('*.py'):
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]
            values = [part.value if isinstance(part, ast.Constant) else '…' for part in parts]
            texts.append(''.join(value for value in values if isinstance(value, str)))
    return texts


@pytest.mark.parametrize('message', headings_from_the_plugin())
def test_message_that_is_explained_is_one_of_the_plugins(message):
    parts = [re.escape(part.strip()) for part in message.split('…') if part.strip()]
    pattern = re.compile('.*'.join(parts))
    assert any(pattern.search(text) for text in texts_of_the_plugin())


def test_messages_are_explained():
    assert len(headings_from_the_plugin()) >= 15


# --- the reference ------------------------------------------------------------------------------


def test_reference_has_every_public_name():
    pages = (ROOT / 'website' / 'reference').glob('*.md')
    paths = re.findall(r'^::: (.+)', '\n'.join(page.read_text() for page in pages), re.M)
    listed = [pkgutil.resolve_name(path) for path in paths]
    packages = (pspnet_plugin, freezing, pretrained, prediction, speed)
    names = {(package, name) for package in packages for name in package.__all__}
    objects = [getattr(package, name) for package, name in names if name != '__version__']
    assert [thing for thing in objects if thing not in listed] == []
