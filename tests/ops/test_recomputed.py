"""Maps that are computed again, against the same functions with all that autograd keeps."""

import gc
import weakref
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from pspnet_plugin.ops.recomputed import not_keeping, recomputed
from tests.helpers.allocations import bytes_left
from tests.helpers.maps import random_map
from tests.helpers.torch_features import VERSION

MORE = VERSION < (2, 2)  # maps that older torch may keep of both


def scaled(x, factor, shift=None):
    out = (x * factor).exp()
    return out if shift is None else out + shift


def network(x, factor, kernel, make, block):
    """Two maps, of which the second is made of the first, and what saves them and a view."""
    y = make(scaled, x, factor)
    with block([x, y]):
        shift = F.conv2d(y, kernel, padding=1)
    z = make(scaled, y / 2, factor, shift)
    with block([y, z]):
        return F.conv2d(z, kernel, padding=1).flatten(2) @ z.flatten(2).mT


def usual(*inputs):
    return network(*inputs, lambda function, *tensors: function(*tensors), lambda _: nullcontext())


def lean(*inputs):
    def make(function, *tensors):
        return recomputed(function, function, *tensors, *[None] * (3 - len(tensors)))

    return network(*inputs, make, not_keeping)


def inputs(height=3, width=5):
    return (
        random_map(2, 2, height, width, seed=1),
        random_map(1, 2, 1, 1, seed=2),
        random_map(2, 2, 3, 3, seed=3),
    )


def derivatives(function, wanted, height=3, width=5):
    tensors = inputs(height, width)
    for index, tensor in enumerate(tensors):
        tensor.requires_grad_(index in wanted)
    wanted = [tensors[index] for index in wanted]
    out = function(*tensors)
    first = torch.autograd.grad(out.sin().sum(), wanted, retain_graph=True)
    again = torch.autograd.grad(out.sin().sum(), wanted, create_graph=True)
    total = sum(gradient.square().sum() for gradient in again)
    return [out, *first, *again, *torch.autograd.grad(total, wanted)]


@pytest.mark.parametrize('wanted', [[0, 1, 2], [0], [1], [2]])
def test_first_and_second_derivatives_are_those_of_what_autograd_keeps(wanted):
    torch.testing.assert_close(derivatives(lean, wanted), derivatives(usual, wanted))


def test_what_makes_the_maps_is_kept_and_no_more():
    tensors = inputs(60, 50)
    a_map = tensors[0].untyped_storage().nbytes()
    ours, stock = (bytes_left(partial(made, *tensors)) / a_map for made in (lean, usual))
    # y / 2, the shift, and the other factor
    assert 2.99 <= ours <= 3.01 + MORE
    # also y and z
    assert stock - ours == pytest.approx(2, abs=0.01)


@pytest.mark.parametrize('backward', [False, True])
def test_memory_is_freed_without_the_garbage_collector(backward):
    gc.disable()
    try:
        tensors = inputs()
        out = lean(*tensors)
        if backward:  # of the kernel alone, which does not get to the first map
            torch.autograd.grad(out.sum(), tensors[2])
        freed = weakref.ref(tensors[0])
        del out, tensors
        assert freed() is None
    finally:
        gc.enable()


@pytest.mark.parametrize('changed', [0, 1, 2])
def test_a_tensor_that_was_changed_in_place_is_an_error_as_without(changed):
    for function in (usual, lean):
        tensors = inputs()
        out = function(*tensors)
        with torch.no_grad():
            tensors[changed].zero_()
        with pytest.raises(RuntimeError, match='in ?place'):
            out.sum().backward()


@pytest.mark.parametrize('enabled', [False, True])
def test_the_backward_pass_computes_under_the_autocast_of_the_forward_pass(enabled):
    x, weight = random_map(3, 4, dtype=torch.float32), random_map(4, 4, dtype=torch.float32)
    dtypes = []

    def product(x, weight):
        dtypes.append((x @ weight).dtype)
        return x @ weight

    with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
        out = recomputed(product, product, x, weight)
    out.sum().backward()
    assert dtypes == [torch.bfloat16 if enabled else torch.float32] * 2
