"""Losses that somebody hooks, wraps or changes: they are called as in stock."""

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.models.losses import CrossEntropyLoss
from mmseg.structures import SegDataSample
from torch import nn
from torch.nn.modules import module as registry
from torch.nn.utils import parametrize

from pspnet_plugin.heads import FactorizedFCNHead
from tests.helpers.heads import HOOK_KINDS

ONE = {'type': 'CrossEntropyLoss', 'loss_weight': 0.4}
SEVERAL = [ONE, dict(ONE, loss_name='loss_b')]


def build(cls, loss_decode):
    return cls(
        in_channels=4,
        channels=4,
        num_convs=0,
        concat_input=False,
        num_classes=5,
        loss_decode=loss_decode,
    ).double()


def losses_and_gradient(head):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 6, 7, dtype=torch.float64, generator=generator).requires_grad_()
    label = torch.randint(5, (2, 1, 24, 28), generator=generator)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=image)) for image in label]
    losses = head.loss_by_feat(logits, samples)
    (gradient,) = torch.autograd.grad(losses['loss_ce'], logits)
    return losses, gradient


@pytest.fixture(params=[ONE, SEVERAL], ids=['one loss', 'several losses'])
def heads(request):
    return build(FCNHead, request.param), build(FactorizedFCNHead, request.param)


def loss_of(head):
    return head.loss_decode[0] if isinstance(head.loss_decode, nn.ModuleList) else head.loss_decode


def assert_same_results(heads):
    stock, ours = map(losses_and_gradient, heads)
    torch.testing.assert_close(ours, stock, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize('kind', HOOK_KINDS)
def test_hooks_of_a_loss_are_called(heads, kind):
    calls = []
    for head in heads:
        getattr(loss_of(head), f'register_{kind}')(lambda *args: calls.append(type(args[1])))
    assert_same_results(heads)
    assert len(calls) == 2
    assert calls[0] == calls[1]


def test_global_hooks_see_the_loss(heads):
    calls = []
    handle = registry.register_module_forward_hook(lambda *args: calls.append(type(args[0])))
    try:
        assert_same_results(heads)
    finally:
        handle.remove()
    assert calls[: len(calls) // 2] == calls[len(calls) // 2 :]
    assert CrossEntropyLoss in calls


class Doubled(nn.Module):
    def __init__(self, loss):
        super().__init__()
        self.loss, self.loss_name = loss, loss.loss_name

    def forward(self, *args, **kwargs):
        return 2 * self.loss(*args, **kwargs)


def double_the_result(loss):
    loss.register_forward_hook(lambda module, args, out: 2 * out)
    return loss


def put_another_forward(loss):
    forward = loss.forward
    loss.forward = lambda *args, **kwargs: 2 * forward(*args, **kwargs)
    return loss


def put_another_criterion(loss):
    criterion = loss.cls_criterion
    loss.cls_criterion = lambda *args, **kwargs: 2 * criterion(*args, **kwargs)
    return loss


class Softened(nn.Module):
    def forward(self, weight):
        return weight.sqrt()


def parametrize_the_class_weight(loss):
    del loss.class_weight
    loss.class_weight = nn.Parameter(torch.arange(1.0, 6.0, dtype=torch.float64))
    parametrize.register_parametrization(loss, 'class_weight', Softened())
    loss.requires_grad_(False)
    return loss


@pytest.mark.filterwarnings('ignore:.*torch.tensor:UserWarning')
@pytest.mark.parametrize(
    'change',
    [
        Doubled,
        double_the_result,
        put_another_forward,
        put_another_criterion,
        parametrize_the_class_weight,
    ],
)
def test_a_changed_loss_counts(heads, change):
    before = losses_and_gradient(heads[0])[0]['loss_ce']
    for head in heads:
        changed = change(loss_of(head))
        if isinstance(head.loss_decode, nn.ModuleList):
            head.loss_decode[0] = changed
        else:
            head.loss_decode = changed
    assert_same_results(heads)
    assert losses_and_gradient(heads[1])[0]['loss_ce'] != before


def forward_mode(loss, logits):
    return torch.func.jvp(loss, (logits,), (logits.cos(),))


def of_each_image(loss, logits):
    return torch.func.vmap(torch.func.grad(loss))(torch.stack([logits, 2 * logits]))


@pytest.mark.parametrize('transform', [forward_mode, of_each_image])
def test_transformed_losses_are_those_of_stock(heads, transform):
    logits = torch.randn(1, 5, 6, 7, dtype=torch.float64)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=torch.randint(5, (1, 24, 28))))]
    results = [
        transform(lambda x, head=head: head.loss_by_feat(x, samples)['loss_ce'], logits)
        for head in heads
    ]
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)
