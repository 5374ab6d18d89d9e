"""``pspnet train``: MMSegmentation's own train tool, with the plugin's checks before it builds."""

from __future__ import annotations

from ..training.launch import run_stock_tool


def run_words(words: list[str]) -> int:
    return run_stock_tool('train.py', words)
