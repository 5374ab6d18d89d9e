"""Names of what is frozen -> ``requires_grad``, eval mode, checkpointing, exchange of parts."""

from __future__ import annotations

import functools
import sys
from collections.abc import Collection, Iterable
from itertools import chain

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint


def first_names(model: nn.Module) -> dict[int, str]:
    """First name of each parameter and buffer by its id: a tensor may have several names."""
    return {id(t): n for n, t in chain(model.named_parameters(), model.named_buffers())}


def set_trainable(
    model: nn.Module, frozen: Collection[str], among: Collection[str]
) -> list[tuple[nn.Parameter, bool]]:
    """Let each parameter named in ``among`` require a gradient unless ``frozen`` names it.

    Returns those parameters, each with whether it trains, for :func:`require_gradients`.
    """
    wanted = [(p, name not in frozen) for name, p in model.named_parameters() if name in among]
    require_gradients(wanted)
    return wanted


def require_gradients(wanted: Iterable[tuple[nn.Parameter, bool]]) -> None:
    """Set ``requires_grad`` of each parameter to the value beside it.

    A frozen parameter also loses the gradient it has, so that a step that was being accumulated
    when it froze does not reach it: torch's optimizers skip a parameter without gradient, weight
    decay and momentum included, and keep its state as it is.
    """
    for parameter, trains in wanted:
        if parameter.requires_grad != trains:
            parameter.requires_grad_(trains)
        if not trains:
            parameter.grad = None


def discard_compiled_graphs() -> None:
    """Have ``torch.compile`` compile this process's models anew when they run next.

    At least up to torch 2.8, a graph goes on without the gradients of what was frozen when it was
    compiled.
    """
    if 'torch._dynamo' in sys.modules:
        torch._dynamo.reset()


def hold_statistics(model: nn.Module, frozen: Collection[str]) -> None:
    """Keep the modules whose own buffers are ``frozen`` in eval mode, and release the others.

    Eval mode is what stops batch norm (and spectral norm) from updating its buffers. A released
    module takes the mode of the last call of its ``train`` method.
    """
    names = first_names(model)
    for module in model.modules():
        held = any(names[id(buffer)] in frozen for buffer in module.buffers(recurse=False))
        lock = vars(module).get('train')
        if held and not isinstance(lock, EvalLock):
            vars(module)['train'] = EvalLock(module)
        elif isinstance(lock, EvalLock) and not held:
            del vars(module)['train']
            module.training = lock.asked


class EvalLock:
    """Replaces the ``train`` method of one module and keeps the module in eval mode.

    Whoever changes the mode of a network calls ``train`` on each of its modules, so a replaced
    method holds the mode without any work per step, and the forward pass stays as it is:
    ``torch.compile`` sees an ordinary module whose ``training`` is False. A lock refers to its
    module only, so a deep copy or an unpickled copy of the network has locks of its own.
    """

    def __init__(self, module: nn.Module):
        self.module = module
        self.asked = module.training
        module.training = False

    def __call__(self, mode: bool = True) -> nn.Module:
        self.asked = mode
        type(self.module).train(self.module, mode)
        self.module.training = False
        return self.module


def checkpoint_without_reentry(model: nn.Module, modules: str | Iterable[str]) -> None:
    """Switch modules under mmengine's ``activation_checkpointing`` to torch's other variant.

    mmengine wraps their forward passes in the reentrant one, which gives no gradients to a module
    whose inputs require none, as behind a frozen part.
    """
    for name in [modules] if isinstance(modules, str) else modules:
        module = model.get_submodule(name)
        forward = vars(module.forward)['__wrapped__']
        module.forward = functools.partial(checkpoint, forward, use_reentrant=False)


def rebuild_reducers(model: nn.Module) -> None:
    """Give each DistributedDataParallel in ``model`` a reducer for what requires a gradient now.

    A reducer waits for gradients and exchanges them. The one that was made when the model was
    wrapped would wait for frozen parameters ("Expected to have finished reduction") and would not
    exchange unfrozen ones. The wrapper stays the same object, and keeps its settings and its
    communication hooks. Every rank must call this at the same iteration.
    """
    for ddp in model.modules():
        if not isinstance(ddp, DistributedDataParallel):
            continue
        parameters, expect_sparse_gradient = ddp._build_params_for_reducer()
        names = ddp._build_debug_param_to_name_mapping(parameters)
        ddp._ddp_init_helper(parameters, expect_sparse_gradient, names, ddp.static_graph)
        for hook, state in getattr(ddp, '_comm_hooks', ()):
            dist._register_comm_hook(ddp.reducer, state, hook)
        ddp._has_rebuilt_buckets = False
        if ddp.static_graph:
            ddp.static_graph = False  # refuses to be set twice
            ddp._set_static_graph()


# --- what models freeze by themselves -----------------------------------------------------------


def freezing_backbones(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Backbones that freeze their ``frozen_stages`` at each call of ``train``, with their names."""
    stages = [(name, m, getattr(m, 'frozen_stages', -1)) for name, m in model.named_modules()]
    return [(name, m) for name, m, frozen in stages if isinstance(frozen, int) and frozen >= 0]


def frozen_as_built(model: nn.Module) -> frozenset[str]:
    """Names of the parameters and buffers that the model froze by itself.

    OpenMMLab's backbones keep the statistics of their ``frozen_stages`` from changing, so a buffer
    counts as frozen where its module lies in such a backbone and all its parameters are frozen, or
    where it has none (``affine=False``) and the backbone put it into eval mode.
    """
    names = first_names(model)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    for _, backbone in freezing_backbones(model):
        for module in backbone.modules():
            own = [parameter.requires_grad for parameter in module.parameters(recurse=False)]
            if not any(own) if own else not module.training:
                frozen.update(names[id(buffer)] for buffer in module.buffers(recurse=False))
    return frozenset(frozen)


def fixed_as_built(model: nn.Module) -> frozenset[str]:
    """Names of the parameters that are constants of the architecture, and no frozen weights.

    Sin-cos position embeddings are parameters that require no gradient beside others of the same
    module that do. Whoever freezes a part freezes all of it, so where nothing in a module trains,
    or its backbone has ``frozen_stages``, its parameters are taken for frozen.
    """
    names = first_names(model)
    freezing = {id(m) for _, backbone in freezing_backbones(model) for m in backbone.modules()}
    return frozenset(
        names[id(parameter)]
        for module in model.modules()
        if id(module) not in freezing and any(p.requires_grad for p in module.parameters())
        for parameter in module.parameters(recurse=False)
        if not parameter.requires_grad
    )


def stop_freezing_by_itself(model: nn.Module, unfrozen: frozenset[str]) -> list[str]:
    """Switch off ``frozen_stages`` of the backbones in which something is to be unfrozen later.

    They would freeze it again at each call of ``train``. Returns their names.
    """
    names, taken = first_names(model), []
    for owner, backbone in freezing_backbones(model):
        inside = chain(backbone.parameters(), backbone.buffers())
        if not unfrozen.isdisjoint(names[id(tensor)] for tensor in inside):
            backbone.frozen_stages = -1  # type: ignore[assignment]
            taken.append(owner)
    return taken
