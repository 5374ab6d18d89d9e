"""A hook for runs of several processes: bytes that are exchanged, and whether the ranks agree."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook


def bytes_of(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def counting_allreduce(counts, bucket):
    """What DistributedDataParallel does by itself, with the bytes of each bucket written down."""
    counts.append(bytes_of([bucket.buffer()]))
    return allreduce_hook(None, bucket)


@HOOKS.register_module(force=True)
class CountBytes(Hook):
    """Writes ``out``: for each iteration the bytes exchanged and those of what trains."""

    def __init__(self, out):
        self.out = Path(out)
        self.record = []

    def before_train(self, runner):
        self.counts = []
        runner.model.register_comm_hook(self.counts, counting_allreduce)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        parameters = list(runner.model.module.parameters())
        own = torch.cat([p.detach().flatten() for p in parameters]).clone()
        others = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(others, own)
        self.record.append(
            {
                'wrapper': id(runner.model),
                'exchanged': sum(self.counts),
                'trains': bytes_of(p for p in parameters if p.requires_grad),
                'ranks agree': all(torch.equal(own, other) for other in others),
                'find_unused_parameters': runner.model.find_unused_parameters,
                'sum': own.double().sum().item(),
            }
        )
        self.counts.clear()

    def after_train(self, runner):
        if runner.rank == 0:
            self.out.write_text(json.dumps(self.record))
