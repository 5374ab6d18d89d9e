"""``pspnet test``: MMSegmentation's own test tool, with the plugin's checks before it builds."""

from __future__ import annotations

from ..training.launch import run_stock_tool


def run_words(words: list[str]) -> int:
    return run_stock_tool('test.py', words)
