"""Pickles that run code when they are read."""

from __future__ import annotations


class Payload:
    """Pickles as a call that is made when the file is read."""

    def __init__(self, call, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call
