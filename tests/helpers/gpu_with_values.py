"""A CUDA device without a GPU whose tensors have values: they are computed on the CPU.

Code that asks a tensor for its device takes the way of GPUs. What would wait for a GPU, or compute
with tensors of two devices, raises. Autocast does not cast here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from pspnet_plugin.ops import tracing

CUDA = torch.device('cuda', 99)  # not one whose matrices the plugin keeps for other tests
# What autograd is told, which would start a thread for a GPU.
OF_AUTOGRAD = torch.device('meta')
WAITING = ('_local_scalar_dense', 'equal', 'is_nonzero', 'masked_select', 'nonzero')


class OnGpu(Tensor):
    """A tensor of a GPU; ``value`` is what it holds, on the CPU."""

    device = CUDA
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, value: Tensor) -> OnGpu:
        layout = {'strides': value.stride(), 'storage_offset': value.storage_offset()}
        made = Tensor._make_wrapper_subclass(
            cls, value.size(), **layout, dtype=value.dtype, device=CUDA, dispatch_device=True
        )
        made.value = value
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, dict(kwargs or {}))


class _Operations(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, dict(kwargs or {}))


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    if func is torch.ops.prim.device.default:
        return OF_AUTOGRAD
    name = func.overloadpacket.__name__
    inputs = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Tensor)]
    values = {id(x.value): x for x in inputs if isinstance(x, OnGpu)}
    to_gpu = bool(values)
    if kwargs.get('device') is not None:
        to_gpu = kwargs['device'] in (CUDA, OF_AUTOGRAD)
        kwargs['device'] = torch.device('cpu')
    copies = name in ('_to_copy', 'copy_')
    if values and not copies and any(x.dim() and not isinstance(x, OnGpu) for x in inputs):
        raise AssertionError(f'{name} of tensors on two devices')
    if values and (name in WAITING or not to_gpu or (copies and not isinstance(args[0], OnGpu))):
        raise AssertionError(f'{name} waits for the GPU')
    args, kwargs = tree_map(lambda x: x.value if isinstance(x, OnGpu) else x, (args, kwargs))
    result = func(*args, **kwargs)
    if not to_gpu:
        return result

    def moved(x: Any) -> Any:
        if id(x) in values:  # of an operation in place
            return values[id(x)]
        return OnGpu(x) if isinstance(x, Tensor) else x

    return tree_map(moved, result)


@contextlib.contextmanager
def gpu_with_values() -> Iterator[None]:
    """Within this context ``device='cuda:99'`` works."""
    if not hasattr(torch._C, '_set_only_lift_cpu_tensors'):
        pytest.skip(f'torch {torch.__version__} asks the driver in torch.tensor()')
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(tracing, 'Tensor', OnGpu))
        stack.enter_context(mock.patch('torch.cuda._lazy_init'))
        unavailable = 'torch.cuda.amp.common.amp_definitely_not_available'
        stack.enter_context(mock.patch(unavailable, return_value=False))
        # cuDNN's batch norm has another name and does not compute on CPUs.
        stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        stack.callback(torch._C._set_only_lift_cpu_tensors, False)
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor() fills memory of the CPU first
        stack.enter_context(_Operations())
        yield


def move_to_gpu(module: nn.Module) -> None:
    """Replace the parameters and buffers of ``module``."""
    for each in module.modules():
        for name, parameter in each.named_parameters(recurse=False):
            setattr(each, name, nn.Parameter(OnGpu(parameter.detach())))
        for name, buffer in each.named_buffers(recurse=False):
            setattr(each, name, OnGpu(buffer))
