"""Names -> what a module must be told so that they do not change: gradients and statistics."""

from __future__ import annotations

import functools
from collections.abc import Collection
from itertools import chain

from torch import nn
from torch.utils.checkpoint import checkpoint

_LOCK = 'train'


def set_trainable(model: nn.Module, frozen: Collection[str], among: Collection[str]) -> None:
    """Give each parameter named in ``among`` ``requires_grad`` unless ``frozen`` names it.

    A frozen parameter also loses the gradient it has, so that a step that was being accumulated
    when it froze does not reach it: torch's optimizers skip a parameter without gradient, weight
    decay and momentum included, and keep its state as it is.
    """
    for name, parameter in model.named_parameters():
        if name not in among:
            continue
        trains = name not in frozen
        if parameter.requires_grad != trains:
            parameter.requires_grad_(trains)
        if not trains:
            parameter.grad = None


def hold_statistics(model: nn.Module, frozen: Collection[str]) -> None:
    """Keep the modules whose own buffers are ``frozen`` in eval mode, and let the others go.

    Eval mode is what stops batch norm (and spectral norm) from updating its buffers. A module that
    is let go takes the mode it was last asked to take.
    """
    for prefix, module in model.named_modules():
        names = (f'{prefix}.{name}' if prefix else name for name in module._buffers)
        held = any(name in frozen for name in names)
        lock = vars(module).get(_LOCK)
        if held and not isinstance(lock, EvalLock):
            vars(module)[_LOCK] = EvalLock(module)
        elif not held and isinstance(lock, EvalLock):
            lock.release()


class EvalLock:
    """Stands in for the ``train`` method of one module and keeps the module in eval mode.

    Everybody who changes the mode of a network calls ``train`` on each of its modules, so nothing
    needs to be repeated and the forward pass stays untouched: ``torch.compile`` sees an ordinary
    module whose ``training`` is False. The lock knows only its module, so a deep copy or an
    unpickled copy of the network carries locks of its own.
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

    def release(self) -> None:
        """Give the module its own ``train`` method back, and the mode last asked for."""
        del vars(self.module)[_LOCK]
        self.module.training = self.asked


def checkpoint_without_reentry() -> None:
    """Make mmengine's ``activation_checkpointing`` work behind a frozen prefix.

    It uses torch's reentrant variant, which gives no gradients to a module whose inputs need none.
    """
    from mmengine.runner import activation_checkpointing

    activation_checkpointing.checkpoint = functools.partial(checkpoint, use_reentrant=False)


# --- what models freeze by themselves -----------------------------------------------------------


def apply_own_freezing(model: nn.Module) -> None:
    """Let backbones with ``frozen_stages`` freeze now; some do so only when ``train`` is called."""
    for module in model.modules():
        if freezes_by_itself(module):
            module.train()


def frozen_as_built(model: nn.Module) -> frozenset[str]:
    """Names of what the model froze by itself: parameters, and the statistics that go with them.

    A buffer counts as frozen when its module lies in a part that a backbone's ``frozen_stages``
    covers, which is where OpenMMLab's backbones keep it from changing.
    """
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    for owner, backbone in model.named_modules():
        if not freezes_by_itself(backbone):
            continue
        for prefix, module in backbone.named_modules(prefix=owner):
            own = [f'{prefix}.{name}' for name, _ in module.named_parameters(recurse=False)]
            if own and frozen.issuperset(own):
                frozen.update(f'{prefix}.{name}' for name, _ in module.named_buffers(recurse=False))
    return frozenset(frozen)


def freezes_by_itself(module: nn.Module) -> bool:
    """Whether a backbone freezes its first stages again whenever ``train`` is called."""
    stages = getattr(module, 'frozen_stages', -1)
    return isinstance(stages, int) and stages >= 0


def stop_freezing_by_itself(model: nn.Module, unfrozen: Collection[str]) -> list[str]:
    """Take ``frozen_stages`` from the backbones in which something is to be unfrozen later.

    Returns their names. They would freeze it again at each call of ``train``.
    """
    taken = []
    for owner, backbone in model.named_modules():
        if not freezes_by_itself(backbone):
            continue
        inside = chain(
            backbone.named_parameters(prefix=owner), backbone.named_buffers(prefix=owner)
        )
        if any(name in unfrozen for name, _ in inside):
            backbone.frozen_stages = -1
            taken.append(owner)
    return taken
