"""Tell DistributedDataParallel which parameters train now."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def rebuild_reducers(model: nn.Module) -> None:
    """Give each DistributedDataParallel in ``model`` a reducer for what requires a gradient now.

    A reducer waits for gradients and exchanges them. The one that was made when the model was
    wrapped would wait for frozen parameters ("Expected to have finished reduction") and would not
    exchange unfrozen ones. The wrapper stays the same object, and keeps its settings and its
    communication hooks. Every rank must call this at the same iteration.
    """
    for module in model.modules():
        if isinstance(module, DistributedDataParallel):
            _rebuild_reducer(module)


def _rebuild_reducer(ddp: DistributedDataParallel) -> None:
    parameters, expect_sparse_gradient = ddp._build_params_for_reducer()
    names = ddp._build_debug_param_to_name_mapping(parameters)
    ddp._ddp_init_helper(parameters, expect_sparse_gradient, names, ddp.static_graph)
    for hook, state in getattr(ddp, '_comm_hooks', ()):
        dist._register_comm_hook(ddp.reducer, state, hook)
    ddp._has_rebuilt_buckets = False
    if ddp.static_graph:
        ddp.static_graph = False  # refuses to be set twice
        ddp._set_static_graph()
