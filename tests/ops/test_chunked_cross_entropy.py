"""The chunked cross-entropy against mmseg's own heads, losses and accuracy."""

import contextlib
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.structures import SegDataSample

from pspnet_plugin import PspnetPluginError
from pspnet_plugin.heads import FactorizedFCNHead
from pspnet_plugin.ops.chunked_cross_entropy import (
    ClassWeightError,
    LabelOutOfRangeError,
    SecondDerivativeError,
    chunked_cross_entropy,
)
from pspnet_plugin.ops.row_chunks import CHUNK_BYTES
from tests.helpers.maps import LargestTensor
from tests.helpers.stack import is_installed
from tests.helpers.torch_features import skip_unless_computed

ON_FORK = is_installed('onedl-mmsegmentation')
CROSS_ENTROPY = {'type': 'CrossEntropyLoss'}


def build_head(cls, classes, **kwargs):
    defaults = {'in_channels': 4, 'channels': 4, 'num_convs': 0, 'concat_input': False}
    return cls(num_classes=classes, **{**defaults, **kwargs})


def as_samples(label):
    return [SegDataSample(gt_sem_seg=PixelData(data=image[None])) for image in label]


def losses_and_gradient(cls, logits, label, **kwargs):
    logits = logits.detach().requires_grad_()
    result = build_head(cls, logits.shape[1], **kwargs).loss_by_feat(logits, as_samples(label))
    sum(value for name, value in result.items() if 'loss' in name).sum().backward()
    return {name: value.detach() for name, value in result.items()}, logits.grad


def random_label(size, classes, ignored=255, share=0.2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, size, generator=generator)
    return label.masked_fill(torch.rand(size, generator=generator) < share, ignored)


def assert_equal_to_stock(logits, label, rtol, accuracy_atol=1e-12, **kwargs):
    """Losses, accuracy and gradients agree; ``accuracy_atol`` is in percent of the pixels."""
    stock, stock_gradient = losses_and_gradient(FCNHead, logits, label, **kwargs)
    ours, gradient = losses_and_gradient(FactorizedFCNHead, logits, label, **kwargs)
    assert ours.keys() == stock.keys()
    for name in stock:
        assert ours[name].shape == stock[name].shape
        atol = accuracy_atol if name == 'acc_seg' else 1e-12
        torch.testing.assert_close(ours[name], stock[name], rtol=rtol, atol=atol)
    atol = rtol * stock_gradient.abs().max().item()
    torch.testing.assert_close(gradient, stock_gradient, rtol=0, atol=atol)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(*[st.integers(1, 20)] * 2),
    st.tuples(*[st.integers(1, 50)] * 2),
    st.integers(2, 6),
    st.integers(1, 3),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from(['mean', 'sum']),
    st.sampled_from([255, -1, 0]),
    st.integers(1, 10_000),
)
@example((7, 9), (7, 9), 3, 2, False, False, False, 'mean', 255, 500)
@example((7, 9), (14, 9), 3, 2, True, False, False, 'mean', 255, 500)
@example((7, 9), (7, 18), 3, 2, False, False, False, 'mean', 255, 500)
def test_losses_accuracy_and_gradients_are_the_stock_ones_in_float64(
    small, full, classes, batch, align_corners, weighted, avg_non_ignore, reduction, ignored, seed
):
    torch.manual_seed(seed)
    logits = torch.randn(batch, classes, *small, dtype=torch.float64)
    weight = (torch.rand(classes) + 0.5).tolist() if weighted else None
    if ON_FORK and weighted and reduction == 'mean':
        avg_non_ignore = False  # stock raises an IndexError
    # mmseg cannot look up a class weight for the label 255.
    share = 0.0 if weighted and ignored == 255 else 0.3
    label = random_label((batch, *full), classes, ignored, share, seed)
    loss = dict(CROSS_ENTROPY, class_weight=weight, reduction=reduction, loss_weight=0.4)
    with mock.patch.dict(CHUNK_BYTES, cpu=seed):
        assert_equal_to_stock(
            logits,
            label,
            rtol=1e-10,
            loss_decode=dict(loss, avg_non_ignore=avg_non_ignore),
            ignore_index=ignored,
            align_corners=align_corners,
        )


@pytest.mark.parametrize('classes', [19, 150])
def test_losses_accuracy_and_gradients_are_the_stock_ones_in_float32(classes):
    logits = 3 * torch.randn(2, classes, 16, 16, generator=torch.Generator().manual_seed(0))
    label = random_label((2, 128, 128), classes)
    # Where the scores of two classes are almost equal, rounding decides which is the highest.
    assert_equal_to_stock(logits, label, rtol=1e-5, accuracy_atol=0.02)


@pytest.mark.parametrize('names', [('loss_ce', 'loss_ce'), ('loss_a', 'loss_b')])
def test_several_losses_are_summed_by_name_as_in_stock(names):
    losses = [
        dict(CROSS_ENTROPY, loss_name=names[0], loss_weight=0.4),
        dict(CROSS_ENTROPY, loss_name=names[1], avg_non_ignore=True),
    ]
    logits = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    label = random_label((2, 30, 40), 5)
    assert_equal_to_stock(logits, label, rtol=1e-10, loss_decode=losses)


@pytest.mark.parametrize(
    'kwargs',
    [
        {'loss_decode': dict(CROSS_ENTROPY, use_sigmoid=True)},
        {'loss_decode': dict(CROSS_ENTROPY, reduction='none')},
        {'loss_decode': [CROSS_ENTROPY, {'type': 'DiceLoss', 'loss_name': 'loss_dice'}]},
        {'sampler': {'type': 'OHEMPixelSampler', 'thresh': 0.7, 'min_kept': 20}},
    ],
    ids=['sigmoid', 'no reduction', 'another loss', 'pixel sampler'],
)
def test_what_cannot_be_chunked_is_computed_as_in_stock(kwargs):
    logits = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    label = random_label((2, 30, 40), 5, share=0.0)
    assert_equal_to_stock(logits, label, rtol=1e-12, **kwargs)


def test_a_single_output_channel_is_computed_as_in_stock():
    heads = [
        build_head(
            cls,
            2,
            out_channels=1,
            threshold=0.5,
            loss_decode=dict(CROSS_ENTROPY, use_sigmoid=True),
        )
        for cls in (FCNHead, FactorizedFCNHead)
    ]
    logits, samples = torch.randn(2, 1, 6, 7), as_samples(random_label((2, 30, 40), 2, share=0.0))
    stock, ours = (head.loss_by_feat(logits, samples) for head in heads)
    assert ours['loss_ce'] == stock['loss_ce']
    assert ours['acc_seg'] == stock['acc_seg']


def test_tied_scores_are_counted_as_stock_counts_them():
    logits = torch.randint(2, (2, 6, 12, 12), generator=torch.Generator().manual_seed(0)).double()
    label = random_label((2, 12, 12), 6)
    stock, _ = losses_and_gradient(FCNHead, logits, label)
    ours, _ = losses_and_gradient(FactorizedFCNHead, logits, label)
    assert ours['acc_seg'] == stock['acc_seg']
    first = (logits.argmax(1) == label)[label != 255].double().mean() * 100
    assert first != pytest.approx(stock['acc_seg'].item()), 'no tie distinguishes the rules'


def test_all_pixels_ignored_give_zero_loss_zero_gradient_and_stock_accuracy():
    logits, label = torch.randn(2, 5, 6, 7), torch.full((2, 30, 40), 255)
    loss = dict(CROSS_ENTROPY, avg_non_ignore=True)
    assert_equal_to_stock(logits, label, rtol=1e-6, loss_decode=loss)
    ours, gradient = losses_and_gradient(FactorizedFCNHead, logits, label, loss_decode=loss)
    assert ours['loss_ce'] == 0
    assert not gradient.any()


DICE = {'type': 'DiceLoss', 'loss_name': 'loss_dice'}
OHEM = {'type': 'OHEMPixelSampler', 'min_kept': 300}


@pytest.mark.parametrize('avg_non_ignore', [False, True])
@pytest.mark.parametrize(
    ('others', 'sampler'),
    [([], None), ([DICE], None), ([], OHEM), ([], {**OHEM, 'thresh': 0.2})],
    ids=['alone', 'Dice', 'OHEM', 'OHEM by threshold'],
)
def test_class_weights_work_with_an_ignored_label_that_has_none(others, sampler, avg_non_ignore):
    logits = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    label, weight = random_label((2, 30, 40), 5), torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0]).double()
    entropy = dict(CROSS_ENTROPY, class_weight=weight.tolist(), avg_non_ignore=avg_non_ignore)
    wanted = {'loss_decode': [entropy, *others], 'sampler': sampler}
    works = ON_FORK and not avg_non_ignore
    with contextlib.nullcontext() if works else pytest.raises(IndexError):
        losses_and_gradient(FCNHead, logits, label, **wanted)
    ours, _ = losses_and_gradient(FactorizedFCNHead, logits, label, **wanted)
    full = F.interpolate(logits, (30, 40), mode='bilinear')
    pixels = F.cross_entropy(full, label, weight, ignore_index=255, reduction='none')
    if sampler:
        head = build_head(FactorizedFCNHead, 5, **wanted)
        pixels = pixels * head.sampler.sample(full, label[:, None])
    # mmseg adds float32's epsilon to what it divides by.
    expected = pixels.sum() / weight[label[label != 255]].sum()
    torch.testing.assert_close(ours['loss_ce'], expected, rtol=1e-9, atol=0)
    for name in ours.keys() - {'loss_ce', 'acc_seg'}:
        stock, _ = losses_and_gradient(FCNHead, logits, label, loss_decode=others)
        assert ours[name] == stock[name]


@pytest.mark.parametrize('others', [[], [DICE]])
@pytest.mark.parametrize('count', [4, 6])
def test_another_number_of_class_weights_than_of_classes_is_an_error_with_both(count, others):
    entropy = dict(CROSS_ENTROPY, class_weight=[1.0] * count)
    logits, label = torch.randn(2, 5, 6, 7), random_label((2, 30, 40), 5, share=0.0)
    with pytest.raises(RuntimeError):
        losses_and_gradient(FCNHead, logits, label, loss_decode=[entropy, *others])
    for sampler in ({}, {'sampler': OHEM}):
        with pytest.raises(ClassWeightError, match=f'has {count} values, but the head has 5'):
            losses_and_gradient(
                FactorizedFCNHead, logits, label, loss_decode=[entropy, *others], **sampler
            )


def test_uint8_labels_count_as_int64_labels():
    logits, label = torch.randn(2, 5, 6, 7), random_label((2, 30, 40), 5)
    expected = chunked_cross_entropy(logits, label)
    torch.testing.assert_close(chunked_cross_entropy(logits, label.to(torch.uint8)), expected)


@pytest.mark.parametrize('value', [5, -3, 254])
def test_label_outside_the_classes_is_named_in_the_error(value):
    logits, label = torch.randn(2, 5, 6, 7), random_label((2, 30, 40), 5)
    label[1, 7, 3] = value
    with pytest.raises(LabelOutOfRangeError, match=f'value {value}, but the head has 5') as error:
        losses_and_gradient(FactorizedFCNHead, logits, label)
    assert isinstance(error.value, PspnetPluginError)
    with pytest.raises(IndexError):
        losses_and_gradient(FCNHead, logits, label)


def test_values_are_the_same_without_a_gradient_and_carry_none():
    logits, label = torch.randn(2, 5, 6, 7, requires_grad=True), random_label((2, 30, 40), 5)
    loss, accuracy = chunked_cross_entropy(logits, label)
    with torch.no_grad():
        loss_alone, accuracy_alone = chunked_cross_entropy(logits, label)
    assert loss.requires_grad
    assert not loss_alone.requires_grad
    torch.testing.assert_close((loss_alone, accuracy_alone), (loss.detach(), accuracy))


def test_second_derivative_is_refused():
    logits, label = torch.randn(2, 5, 6, 7, requires_grad=True), random_label((2, 30, 40), 5)
    loss, _ = chunked_cross_entropy(logits, label)
    with pytest.raises(SecondDerivativeError, match='create_graph'):
        torch.autograd.grad(loss, logits, create_graph=True)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('autocast', [True, False])
def test_half_precision_logits_are_at_least_as_accurate_as_stock(dtype, autocast):
    skip_unless_computed(dtype)
    half = torch.randn(2, 9, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    label = random_label((2, 64, 64), 9)
    truth, truth_gradient = losses_and_gradient(FCNHead, half.double(), label)
    errors = {}
    for cls in (FCNHead, FactorizedFCNHead):
        with torch.autocast('cpu', dtype, enabled=autocast):
            result, gradient = losses_and_gradient(cls, half, label)
        assert gradient.dtype == dtype
        errors[cls] = (
            (result['loss_ce'] - truth['loss_ce']).abs().item(),
            (gradient.double() - truth_gradient).norm().item(),
        )
    for ours, stock in zip(errors[FactorizedFCNHead], errors[FCNHead]):
        assert ours <= 1.5 * stock + 1e-7


def test_scaled_loss_keeps_gradients_that_float16_cannot_hold_unscaled():
    logits = torch.randn(1, 5, 16, 16, generator=torch.Generator().manual_seed(0))
    label = random_label((1, 256, 256), 5)
    truth = losses_and_gradient(FCNHead, logits.half().double(), label)[1]
    scale = 1024.0
    scaled = logits.half().requires_grad_()
    (chunked_cross_entropy(scaled, label)[0] * scale).backward()
    torch.testing.assert_close(scaled.grad.double() / scale, truth, rtol=2e-3, atol=1e-9)


@pytest.mark.parametrize('loss', [CROSS_ENTROPY, [CROSS_ENTROPY] * 2], ids=['one', 'several'])
def test_no_tensor_comes_near_the_size_of_the_full_logits(loss):
    logits, label = torch.randn(2, 20, 16, 16), random_label((2, 128, 128), 20)
    full = 2 * 20 * 128 * 128
    largest = {}
    for cls in (FCNHead, FactorizedFCNHead):
        with mock.patch.dict(CHUNK_BYTES, cpu=100_000), LargestTensor() as mode:
            losses_and_gradient(cls, logits, label, loss_decode=loss)
        largest[cls] = mode.elements
    assert largest[FCNHead] >= full
    assert largest[FactorizedFCNHead] <= full / 15


def test_compiled_caller_gets_the_same_loss_and_gradient():
    logits, label = torch.randn(2, 5, 6, 7, requires_grad=True), random_label((2, 30, 40), 5)

    def doubled_loss(logits):
        return 2 * chunked_cross_entropy(logits.sin(), label)[0]

    torch._dynamo.reset()
    results = []
    for function in (doubled_loss, torch.compile(doubled_loss, backend='aot_eager')):
        loss = function(logits)
        results.append((loss, *torch.autograd.grad(loss, logits)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-6, atol=1e-7)
