"""A single image on a CPU, whose gradients PyTorch gets wrong in some memory layouts."""

import itertools

import pytest
import torch
from mmengine.registry import DefaultScope
from mmseg.registry import MODELS
from torch import nn

NORMS = {'BN': nn.BatchNorm2d, 'IN': nn.InstanceNorm2d}
SIZES = [(8, 10), (4, 6), (2, 3)]
HEADS = {
    'FactorizedPSPHead': {'in_channels': 8, 'in_index': 0, 'pool_scales': (2, 3)},
    'FactorizedFCNHead': {'in_channels': 8, 'in_index': 0, 'num_convs': 1, 'concat_input': True},
    'FactorizedUPerHead': {'in_channels': [8] * 3, 'in_index': [0, 1, 2], 'pool_scales': (2,)},
    'FactorizedSegformerHead': {'in_channels': [8] * 3, 'in_index': [0, 1, 2]},
}


def network(head, norm, activation):
    """A head behind norms without activation, as at the end of MobileNetV2."""
    cfg = dict(HEADS[head], type=head, channels=4, num_classes=2, dropout_ratio=0)
    cfg.update(norm_cfg={'type': norm}, act_cfg={'type': activation}, align_corners=False)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        decode_head = MODELS.build(cfg).double()
    before = NORMS[norm](8).double()
    maps = [torch.randn(1, 8, *size).double().requires_grad_() for size in SIZES]
    if not isinstance(cfg['in_channels'], list):
        del maps[1:]

    def loss(*maps):
        return decode_head([before(x) for x in maps]).sin().sum()

    def penalty(*maps):
        """What is differentiated with create_graph=True."""
        trained = [*maps, *decode_head.parameters()]
        gradients = torch.autograd.grad(loss(*maps), trained, create_graph=True)
        return sum(gradient.square().sum() for gradient in gradients)

    return loss, penalty, maps, decode_head


@pytest.mark.parametrize('activation', ['GELU', 'ReLU'])
@pytest.mark.parametrize('norm', list(NORMS))
@pytest.mark.parametrize('head', list(HEADS))
def test_gradients_of_a_single_image_are_those_of_finite_differences(head, norm, activation):
    loss, penalty, maps, _ = network(head, norm, activation)
    assert torch.autograd.gradcheck(loss, maps, fast_mode=True)
    assert torch.autograd.gradcheck(penalty, maps, fast_mode=True)


@pytest.mark.parametrize('head', list(HEADS))
def test_gradients_of_a_single_channels_last_image_are_those_of_finite_differences(head):
    loss, penalty, maps, decode_head = network(head, 'BN', 'GELU')
    decode_head.to(memory_format=torch.channels_last)
    maps = [x.detach().to(memory_format=torch.channels_last).requires_grad_() for x in maps]
    assert torch.autograd.gradcheck(loss, maps, fast_mode=True)
    assert torch.autograd.gradcheck(penalty, maps, fast_mode=True)


@pytest.mark.parametrize('activation', ['GELU', 'HSwish'])
def test_a_single_channels_last_image_trains_ocr_as_in_stock(activation):
    gradients = []
    for head in ('OCRHead', 'FactorizedOCRHead'):
        cfg = {'in_channels': 8, 'in_index': 0, 'channels': 4, 'ocr_channels': 4, 'num_classes': 3}
        cfg.update(type=head, norm_cfg={'type': 'BN'}, act_cfg={'type': activation})
        torch.manual_seed(0)
        with DefaultScope.overwrite_default_scope('mmseg'):
            decode_head = MODELS.build(dict(cfg, dropout_ratio=0, align_corners=False)).double()
        decode_head.to(memory_format=torch.channels_last)
        x, logits = (torch.randn(1, channels, 8, 10).double() for channels in (8, 3))
        x, logits = (t.to(memory_format=torch.channels_last).requires_grad_() for t in (x, logits))
        loss = decode_head([x], logits).sin().sum()
        gradients.append(torch.autograd.grad(loss, [x, logits, *decode_head.parameters()]))
    torch.testing.assert_close(*gradients)


# docs/compat.md says which of these go together; W C, C and 1 as in a map of (1, C, H, W).
STRIDES = {
    'contiguous': lambda c, h, w: (c * h * w, h * w, w, 1),
    'channels-last': lambda c, h, w: (c * h * w, 1, w * c, c),
    'channels-last, batch stride C': lambda c, h, w: (c, 1, w * c, c),
    'channels-last, batch stride 1': lambda c, h, w: (1, 1, w * c, c),
}
WRONG = {
    pair for last in list(STRIDES)[2:] for pair in (('contiguous', last), (last, 'contiguous'))
}


@pytest.mark.parametrize('layouts', sorted(set(itertools.product(STRIDES, repeat=2)) - WRONG))
def test_pytorch_takes_every_pair_of_layouts_but_those_in_the_documents(layouts):
    """If this fails for a version of PyTorch, docs/compat.md says too little."""
    torch.manual_seed(0)
    shape = (1, 8, 5, 6)
    values = [torch.randn(shape, dtype=torch.float64) for _ in layouts]
    x, grad = (
        torch.empty_strided(shape, STRIDES[layout](*shape[1:]), dtype=torch.float64)
        for layout in layouts
    )
    x.copy_(values[0])
    grad.copy_(values[1])
    results = []
    for image, gradient in ((x, grad), values):
        image = image.detach().requires_grad_()
        (result,) = torch.autograd.grad(
            nn.functional.batch_norm(image, None, None, training=True), image, gradient
        )
        results.append(result)
    torch.testing.assert_close(*results)
