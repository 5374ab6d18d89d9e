"""Checkpoints that somebody has made to run code, or to reach beyond their memory."""

from __future__ import annotations

import io
import pickle

import torch


class Payload:
    """Pickles as a call that is made when the file is read."""

    def __init__(self, call, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call


def checkpoint_of(stack: bytes) -> io.BytesIO:
    """Opcodes as a checkpoint in the format of torch before 1.6, which is a plain pickle."""
    head = (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {})
    parts = [pickle.dumps(part, 2) for part in head]
    return io.BytesIO(b''.join([*parts, b'\x80\x02' + stack + b'.', pickle.dumps([], 2)]))
