"""The documents as a reader meets them: their code blocks and command lines."""

from __future__ import annotations

import ast
import functools
import re
import shlex
import string
from pathlib import Path

from markdown_it import MarkdownIt

from tests.helpers.processes import ROOT

DOCUMENTS = [
    *(ROOT / name for name in ('README.md', 'README_zh-CN.md', 'CONTRIBUTING.md')),
    *sorted((ROOT / 'docs').rglob('*.md')),
]
# Each translated document with the English one, whose commands and code it has.
TRANSLATIONS = {
    path: path.with_name(path.name.replace('_zh-CN', ''))
    for path in DOCUMENTS
    if '_zh-CN' in path.name
}


@functools.cache
def tokens(document: Path) -> list:
    """All of markdown-it's tokens, those within a block after that of the block."""
    blocks = MarkdownIt().enable('table').parse(document.read_text(encoding='utf-8'))
    return [token for block in blocks for token in (block, *(block.children or ()))]


def code_blocks(document: Path, language: str) -> list[str]:
    found = (token for token in tokens(document) if token.type == 'fence')
    return [token.content for token in found if token.info == language]


def is_config(snippet: str) -> bool:
    return all(isinstance(statement, ast.Assign) for statement in ast.parse(snippet).body)


def command_lines(document: Path, running_text: bool = True) -> list[list[str]]:
    """The words of every shell line, and of every command in running text; variables filled in."""
    blocks = code_blocks(document, 'bash')
    if running_text:
        blocks += [t.content for t in tokens(document) if t.type == 'code_inline']
    variables: dict[str, str] = {}
    lines = []
    for line in '\n'.join(blocks).replace('\\\n', ' ').splitlines():
        line = string.Template(line).safe_substitute(variables)
        try:
            words = shlex.split(line, comments=True)
        except ValueError:  # running text such as `it's`
            continue
        assignment = re.fullmatch(r'([A-Z]+)=(.*)', words[0], re.S) if words else None
        if assignment:
            variables[assignment[1]] = assignment[2]
        lines.append(words)
    return lines


def tool_calls(lines: list[list[str]]) -> list[list[str]]:
    """Tool and arguments of every ``python tools/…`` and ``pspnet …``."""
    calls = []
    for words in lines:
        for start in (['pspnet'], ['-m', 'pspnet_plugin']):
            places = [n for n in range(len(words)) if words[n : n + len(start)] == start]
            calls += [['pspnet', *words[place + len(start) :]] for place in places]
        for place, (word, tool) in enumerate(zip(words, words[1:])):
            if word == 'python' and tool.startswith('tools/'):
                calls.append(words[place + 1 :])
    return calls
