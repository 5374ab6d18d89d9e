"""What the benchmark compares: each variant is what its row says, and computes what stock does."""

import functools

import pytest
import torch
from benchmark import heads, networks
from benchmark.measuring import Settings, noise
from mmseg.models.decode_heads import FCNHead, PSPHead
from mmseg.models.segmentors import EncoderDecoder
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.utils import save_image

from pspnet_plugin.heads import FactorizedFCNHead, FactorizedPSPHead, FactorizedUPerHead

PSPNET = Settings(
    config='mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py', crop=(64, 96)
)
UPERNET = Settings(
    config='mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    crop=(64, 96),
)


def result_of(step):
    torch.manual_seed(1)  # the same dropout and the same skipped blocks
    return step()


def parts_up_to(last, parts):
    """The parts of the row that ends in ``last``; none for stock."""
    return parts[: parts.index(last) + 1] if last else ()


@pytest.mark.parametrize('channels_last', [False, True])
def test_psp_heads_compute_the_same_and_the_limit_is_a_convolution_of_x(channels_last):
    settings = Settings(channels=64, classes=3, sizes=((8, 16),), channels_last=channels_last)
    for case in heads.psp_cases(settings):
        steps = case.build()
        torch.testing.assert_close(
            result_of(steps[heads.OURS]), result_of(steps[heads.STOCK]), rtol=1e-4, atol=1e-5
        )
    config = {'type': 'PSPHead', 'in_channels': 64, 'channels': 16, 'num_classes': 3}
    stock, ours = (build() for build in heads.stock_and_ours(config).values())
    assert (type(stock), type(ours)) == (PSPHead, FactorizedPSPHead)
    (gradient,) = result_of(steps[heads.LIMIT])
    assert gradient.is_contiguous(memory_format=settings.memory_format)
    limit = heads.ConvolutionOfX(64, 16, 3, padding=1, bias=False)
    assert limit.weight.shape == stock.bottleneck.conv.weight[:, :64].shape
    x = torch.randn(2, 64, 8, 16)
    torch.testing.assert_close(limit([x]), torch.conv2d(x, limit.weight, padding=1))


def test_heads_of_several_maps_compute_the_same():
    for case in heads.other_cases(Settings(batch=1, crop=(64, 96))):
        if case.label.endswith(', forward'):
            stock, ours = (result_of(step) for step in case.build().values())
            assert stock.shape[2:] == (16, 24)
            torch.testing.assert_close(ours, stock, rtol=1e-4, atol=1e-5)


def test_both_losses_are_the_same_number():
    (case,) = heads.loss_cases(Settings(classes=5, crop=(64, 48)))
    stock, ours = (step() for step in case.build().values())
    assert stock > 0
    torch.testing.assert_close(ours, stock)


def test_each_row_of_training_has_the_loss_of_stock():
    (case,) = networks.training_cases(PSPNET)
    losses = {name: result_of(step) for name, step in case.build().items()}
    assert len(losses) == 5
    for name, loss in losses.items():
        torch.testing.assert_close(loss, losses['stock'], rtol=1e-4, atol=0, msg=name)


def test_upernet_with_all_parts_has_our_head_and_the_loss_of_stock():
    assert type(networks.build(UPERNET, networks.TRAINING).decode_head) is FactorizedUPerHead
    stock, ours = (
        result_of(networks.training_step(UPERNET, parts)) for parts in ((), networks.TRAINING)
    )
    torch.testing.assert_close(ours, stock, rtol=1e-4, atol=0)


@pytest.mark.parametrize('part', [None, *networks.TRAINING])
def test_row_of_training_has_its_parts(part):
    parts = parts_up_to(part, networks.TRAINING)
    model = networks.build(PSPNET, parts)
    ours = networks.HEADS in parts
    assert type(model.decode_head) is (FactorizedPSPHead if ours else PSPHead)
    assert type(model.auxiliary_head) is (FactorizedFCNHead if ours else FCNHead)
    weight = model.backbone.layer1[0].conv2.weight
    channels_last = networks.CHANNELS_LAST in parts
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_chunked_loss_is_a_row_of_its_own(monkeypatch):
    called = []
    chunked = FactorizedPSPHead.loss_by_feat
    monkeypatch.setattr(
        FactorizedPSPHead, 'loss_by_feat', lambda *args: called.append(1) or chunked(*args)
    )
    for parts, count in (((networks.HEADS,), 0), ((networks.HEADS, networks.LOSS), 1)):
        networks.training_step(PSPNET, parts)()
        assert len(called) == count


def test_training_step_updates_every_parameter(monkeypatch):
    model = networks.build(PSPNET)
    monkeypatch.setattr(networks, 'build', lambda *args: model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step = networks.training_step(PSPNET)
    for _ in range(3):
        step()
    assert not [name for name, p in model.named_parameters() if torch.equal(p, before[name])]


@pytest.mark.parametrize(
    ('part', 'folded', 'keeps_logits'),
    [
        (networks.CHANNELS_LAST, False, True),
        (networks.FOLDING, True, True),
        (networks.STRIPS, True, False),
    ],
)
def test_row_of_prediction_has_its_parts(part, folded, keeps_logits, tmp_path):
    parts = parts_up_to(part, networks.PREDICTION)
    model = networks.build_predicting(PSPNET, parts)
    norms = [module for module in model.backbone.modules() if isinstance(module, _BatchNorm)]
    assert bool(norms) != folded
    assert (type(model) is EncoderDecoder) == keeps_logits
    weight = model.backbone.layer1[0].conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize('settings', [PSPNET, UPERNET], ids=['pspnet', 'upernet'])
def test_prediction_finds_several_classes_and_the_same_with_all_parts(settings, tmp_path):
    image = str(tmp_path / 'image.png')
    save_image(0.5 + 0.25 * noise((128, 192)), image)
    stock, ours = (
        networks.prediction(settings, image, parts)() for parts in ((), networks.PREDICTION)
    )
    assert stock.shape == ours.shape == (128, 192)
    assert len(stock.unique()) >= 3
    # One pixel in a thousand may differ: rounding decides ties, and the image is small.
    assert (stock == ours).double().mean() >= 0.999


def test_config_of_the_plugin_is_measured_beside_the_stock_one_that_it_replaces():
    config = networks.stock_config('psp_r50_cityscapes', (64, 96))
    types = [config.model[part].type for part in ('decode_head', 'auxiliary_head')]
    assert [config.model.type, *types] == ['EncoderDecoder', 'PSPHead', 'FCNHead']
    assert 'init_cfg' not in config.model.backbone


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_half_precision_runs_under_autocast(dtype):
    settings = Settings(channels=64, classes=3, sizes=((4, 4),), dtype=dtype)
    for case in heads.psp_cases(settings):
        for step in case.build().values():
            ((result,), _) = torch.utils._pytree.tree_flatten(step())
            assert str(result.dtype) == f'torch.{dtype}'


def test_compile_compiles(monkeypatch):
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))
    frames = torch._dynamo.utils.counters['frames']
    for compiled in (False, True):
        frames.clear()
        settings = Settings(channels=64, classes=3, sizes=((5, 5),), compile=compiled)
        case = next(iter(heads.psp_cases(settings)))
        case.build()[heads.OURS]()
        assert bool(frames['ok']) == compiled
