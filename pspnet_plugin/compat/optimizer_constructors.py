"""Which constructor built an optimizer wrapper.

Wrong: mmengine's ``DefaultOptimWrapperConstructor`` with a ``paramwise_cfg`` skips parameters that
require no gradient when it runs. ``LayerFreezeHook`` adds those that are to be unfrozen later, with
the options that only the constructor knows; a runner does not keep it, and has no config where it
was built from arguments.

Changed, for as long as the process runs: ``DefaultOptimWrapperConstructor.__call__`` writes the
constructor into an attribute of the optimizer wrapper that it returns.

Unnecessary as soon as mmengine no longer skips such parameters.
"""

from __future__ import annotations

import functools

from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper


def constructor_of(optim_wrapper: OptimWrapper) -> DefaultOptimWrapperConstructor | None:
    """The constructor that built an optimizer wrapper; None where it was built by hand."""
    return getattr(optim_wrapper, 'constructor', None)


@functools.cache  # twice is the same as once
def patch() -> None:
    """Let constructors sign what they build."""
    build = DefaultOptimWrapperConstructor.__call__

    @functools.wraps(build)
    def build_and_sign(self, model):
        optim_wrapper = build(self, model)
        optim_wrapper.constructor = self
        return optim_wrapper

    DefaultOptimWrapperConstructor.__call__ = build_and_sign
