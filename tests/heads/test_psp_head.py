"""``FactorizedPSPHead`` against mmseg's ``PSPHead``, in what ``test_heads`` does not ask of all."""

import copy
import functools
import statistics

import pytest
import torch
from torch import nn

from pspnet_plugin.heads import FactorizedPSPHead
from tests.helpers.heads import both_heads as both_heads_of
from tests.helpers.heads import run
from tests.helpers.maps import LAYOUTS, Convolutions

both_heads = functools.partial(both_heads_of, 'psp')


def test_what_mmseg_checks_of_its_own_head_holds():
    with pytest.raises(AssertionError):
        FactorizedPSPHead(in_channels=32, channels=16, num_classes=19, pool_scales=1)

    def norms(head):
        return [m for m in head.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    sizes = {'in_channels': 32, 'channels': 16, 'num_classes': 19}
    assert not norms(FactorizedPSPHead(**sizes))
    synced = norms(FactorizedPSPHead(**sizes, norm_cfg={'type': 'SyncBN'}))
    assert len(synced) == 5
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in synced)
    head = FactorizedPSPHead(**sizes, pool_scales=(1, 2, 3))
    assert [level[0].output_size for level in head.psp_modules] == [1, 2, 3]
    assert head([torch.randn(1, 32, 45, 45)]).shape == (1, 19, 45, 45)


def test_training_on_one_image_fails_as_stock_does():
    stock, ours = both_heads()
    messages = []
    for head in (stock, ours):
        with pytest.raises(ValueError) as failure:
            head.train()([torch.randn(1, 6, 9, 9)])
        messages.append(str(failure.value))
    assert messages[0] == messages[1]


def test_bottleneck_still_convolves_a_concatenation():
    stock, ours = both_heads()
    concatenation = torch.randn(2, 22, 9, 11)
    torch.testing.assert_close(ours.bottleneck(concatenation), stock.bottleneck(concatenation))


def test_shapes_are_found_without_memory_on_the_meta_device():
    stock, ours = both_heads(in_channels=8, channels=4)
    x = torch.empty(2, 8, 9, 7, device='meta')
    assert ours.to('meta')([x]).shape == stock.to('meta')([x]).shape


def error_ratio(results, stock, truth):
    return (results.double() - truth).norm() / (stock.double() - truth).norm()


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_rounding_errors_of_a_wide_head_and_its_gradients_are_those_of_stock(layout):
    torch.manual_seed(0)
    stock, ours = both_heads(in_channels=512, channels=256)
    stock, ours = (head.eval().to(memory_format=layout) for head in (stock, ours))
    x = torch.randn(1, 512, 32, 33).relu().to(memory_format=layout)
    truth = run(copy.deepcopy(stock).double(), x.double())
    expected = run(stock, x)
    with Convolutions() as direct:
        results = run(ours, x)
    assert (256, 512, 3, 3) not in direct.weights, 'not convolved over tiles'
    ratios = {
        name: error_ratio(results[name], expected[name], truth[name]).item()
        for name in truth
        if not torch.equal(results[name], expected[name])
    }
    assert ratios.keys() >= {'output', 'x', 'bottleneck.conv.weight'}
    # What a CPU's own convolution rounds differs, so a single ratio has more room than their mean.
    assert statistics.geometric_mean(ratios.values()) <= 1.5
    assert max(ratios.values()) <= 3


def kept_bytes(head, x):
    """What the head's graph keeps for the backward pass, x and the parameters not counted."""
    known = {t.untyped_storage().data_ptr() for t in [x, *head.parameters(), *head.buffers()]}
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = head([x])
    assert out.requires_grad
    return sum(size for storage, size in kept.items() if storage not in known)


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
def test_memory_kept_for_the_backward_pass_is_a_third_of_stock(layout):
    # Channels and positions in the proportions of 2048, 512, and 64 x 128.
    stock, ours = both_heads(in_channels=256, channels=64, num_classes=19, dropout_ratio=0.1)
    x = torch.randn(2, 256, 64, 128).to(memory_format=layout).requires_grad_()
    stock, ours = (head.train().to(memory_format=layout) for head in (stock, ours))
    assert kept_bytes(ours, x) <= 0.35 * kept_bytes(stock, x)
