"""What the benchmark compares: each variant is what its row says, and computes the same."""

import functools

import pytest
import torch
from benchmark import (
    freeze,
    head,
    heads,
    inputs,
    loss,
    models,
    passes,
    predict,
    runtimes,
    train,
    winograd,
)
from benchmark.settings import Settings
from mmengine.config import Config
from mmseg.models.decode_heads import FCNHead, PSPHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pspnet_plugin.app.training.launch import stock_tools
from pspnet_plugin.heads import FactorizedFCNHead, FactorizedPSPHead, FactorizedUPerHead
from pspnet_plugin.segmentors import LabelMapEncoderDecoder

TINY = Settings(channels=64, classes=3, crop=(32, 48))


def test_the_heads_that_are_compared_agree():
    (stock, x), (factorized, _) = (
        head.build(name, (8, 16), TINY) for name in ('stock', 'factorized')
    )
    assert type(stock) is PSPHead
    assert type(factorized) is FactorizedPSPHead
    torch.testing.assert_close(factorized.eval()(x), stock.eval()(x))


@pytest.mark.parametrize('name', heads.CONFIGS)
def test_the_heads_of_several_maps_agree_on_what_the_backbone_would_give(name):
    settings = Settings(batch=1, crop=(64, 96))
    (stock, maps), (factorized, ours) = (
        heads.build(variant, name, torch.channels_last, settings) for variant in heads.VARIANTS
    )
    assert type(stock).__name__ == name.split()[0]
    assert type(factorized).__name__ == f'Factorized{type(stock).__name__}'
    assert [x.shape[2:] for x in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)
    torch.testing.assert_close(factorized.eval()(ours), stock.eval()(maps), rtol=1e-4, atol=1e-5)


def test_the_limit_is_a_convolution_like_the_part_of_the_bottleneck_that_reads_x():
    stock, (x,) = head.build('stock', (8, 16), TINY)
    weight = stock.bottleneck.conv.weight[:, : TINY.channels]
    limit = head.build_module(head.LIMIT, TINY)
    assert limit.weight.shape == weight.shape
    torch.testing.assert_close(limit([x]), nn.functional.conv2d(x, limit.weight, padding=1))


def test_the_heads_keep_the_feature_map_and_the_stock_head_its_concatenation_too():
    def kept(variant):
        return passes.kept(functools.partial(head.build, variant, (8, 16), TINY), TINY)

    x = TINY.batch * TINY.channels * 8 * 16 * 4  # bytes
    assert kept(head.LIMIT) == (0, x)
    stock, factorized = kept('stock'), kept('factorized')
    assert stock[0] > 2 * x
    assert factorized[0] < stock[0] - x


@pytest.mark.parametrize(('pixels', 'taken'), [(31, False), (32, True)])
def test_both_ways_to_convolve_agree_and_what_is_wanted_follows_the_rule(
    pixels, taken, monkeypatch
):
    monkeypatch.setattr(winograd, 'CHANNELS', ((256, 256),))
    tables = winograd.measure(Settings(batch=1, runs=1, sizes=((pixels, pixels),)))
    for table in tables:
        for wanted in table.wanted:
            assert (wanted.low, wanted.high) == ((0.9, None) if taken else (None, 1.1))

    x, weight = torch.rand(1, 8, 5, 6), torch.rand(3, 8, 3, 3)
    results = [way(x, weight) for way in winograd.WAYS.values()]
    torch.testing.assert_close(*results)


def test_both_losses_are_the_same_number():
    stock, streamed = (
        loss.prepare(variant, Settings(classes=5, crop=(64, 48)))() for variant in loss.HEADS
    )
    assert stock > 0
    torch.testing.assert_close(streamed, stock)


@pytest.mark.parametrize(
    ('row', 'decode_head', 'auxiliary_head', 'streamed', 'channels_last'),
    [
        ('stock', PSPHead, FCNHead, False, False),
        ('+ heads', FactorizedPSPHead, FactorizedFCNHead, False, False),
        ('+ streamed loss', FactorizedPSPHead, FactorizedFCNHead, True, False),
        ('+ channels-last', FactorizedPSPHead, FactorizedFCNHead, True, True),
        ('+ kept memory', FactorizedPSPHead, FactorizedFCNHead, True, True),
    ],
)
def test_a_row_of_training_has_its_parts_and_the_loss_of_stock(
    row, decode_head, auxiliary_head, streamed, channels_last
):
    model = models.build(TINY, models.cumulative(train.PARTS)[row])
    assert isinstance(model.decode_head, decode_head)
    assert isinstance(model.auxiliary_head, auxiliary_head)
    for module in (model.decode_head, model.auxiliary_head):
        assert (type(module).loss_by_feat is not BaseDecodeHead.loss_by_feat) == streamed
    weight = model.backbone.layer1[0].conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last

    def loss_of(model):
        torch.manual_seed(1)  # the same dropout
        return models.training_forward(model, TINY)()

    torch.testing.assert_close(loss_of(model), loss_of(models.build(TINY)), rtol=1e-4, atol=0)


@pytest.mark.parametrize('part', models.cumulative(train.PARTS))
def test_upernet_has_the_same_parts_and_the_loss_of_stock(part):
    settings = Settings(model='upernet_swin_t', channels=64, classes=3, crop=(32, 32))

    def loss_of(model):
        torch.manual_seed(1)  # the same dropout and the same skipped blocks
        return models.training_forward(model, settings)()

    parts = models.cumulative(train.PARTS)[part]
    model = models.build(settings, parts)
    assert isinstance(model.decode_head, FactorizedUPerHead) == (models.HEAD in parts)
    torch.testing.assert_close(loss_of(model), loss_of(models.build(settings)), rtol=1e-4, atol=0)


def test_upernet_predicts_the_labels_of_stock_with_all_parts(tmp_path):
    settings = Settings(model='upernet_swin_t', channels=128, classes=20, crop=(64, 96))
    image = tmp_path / 'image.png'
    inputs.write_image(image, (128, 192))
    stock = predict.prepare((), str(image), settings)()
    ours = predict.prepare(predict.PARTS, str(image), settings)()
    assert len(stock.unique()) >= 3
    assert predict.share_equal({'stock': stock, 'ours': ours}, 'ours') >= 99.9


def test_a_network_of_the_published_width_is_the_stock_one():
    for name, network in models.NETWORKS.items():
        settings = Settings(model=name)
        stock = Config.fromfile(stock_tools().parent / 'configs' / network.config).model
        ours = models.stock_config(settings).model
        for part in ('backbone', 'decode_head', 'auxiliary_head'):
            widths = ('embed_dims', 'base_channels', 'in_channels', 'channels')
            for key in set(widths) & set(stock[part]):
                assert ours[part][key] == stock[part][key], (name, part, key)


def test_a_training_step_updates_every_parameter():
    model = models.build(TINY)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step = models.training_step(model, TINY)
    for _ in range(3):
        step()
    assert not [name for name, p in model.named_parameters() if torch.equal(p, before[name])]


def test_prediction_finds_several_classes_and_nearly_the_same_with_all_parts(tmp_path):
    settings = Settings(channels=64, classes=7, crop=(64, 96))
    height, width = settings.crop
    image = tmp_path / 'image.png'
    inputs.write_image(image, (2 * height, 2 * width))
    stock = predict.prepare((), str(image), settings)()
    ours = predict.prepare(predict.PARTS, str(image), settings)()
    assert stock.shape == ours.shape == (2 * height, 2 * width)
    assert len(stock.unique()) >= 3
    # One pixel in a thousand may differ: rounding decides ties, and the image is small.
    assert predict.share_equal({'stock': stock, 'ours': ours}, 'ours') >= 99.9


def test_every_runtime_computes_what_stock_does():
    settings = Settings(channels=64, classes=7, crop=(64, 96), runs=1)
    labels = predict.measure_runtimes(settings).quantity(runtimes.LABELS)
    rows = [
        f'{name}, {network}'
        for name in ('PyTorch', 'ONNX Runtime', 'OpenVINO float32')
        for network in ('stock', 'ours')
    ]
    assert set(rows) < set(labels.values)
    for row in rows:
        assert labels.median(row) >= 99, row
    for row in ('PyTorch bfloat16, stock', 'PyTorch bfloat16, ours'):
        assert labels.median(row) >= 80, row


def test_equal_labels_are_counted_in_percent_of_the_pixels():
    stock = torch.zeros(10, 10, dtype=torch.int64)
    other = stock.clone()
    other[0, :3] = 1
    assert predict.share_equal({'stock': stock, 'other': other}, 'other') == pytest.approx(97)


@pytest.mark.parametrize(
    ('row', 'folded', 'segmentor'),
    [
        ('+ channels-last', False, EncoderDecoder),
        ('+ folding', True, EncoderDecoder),
        ('+ strips', True, LabelMapEncoderDecoder),
    ],
)
def test_a_row_of_prediction_has_its_parts(row, folded, segmentor, tmp_path):
    settings = Settings(channels=64, classes=7, crop=(64, 96))
    image = tmp_path / 'image.png'
    inputs.write_image(image, settings.crop)
    parts = models.cumulative(predict.PARTS)[row]
    model = predict.build_for_prediction(parts, str(image), settings)
    norms = [module for module in model.backbone.modules() if isinstance(module, _BatchNorm)]
    assert bool(norms) != folded
    assert type(model) is segmentor
    assert model.test_cfg.get('seg_logits', True) == (segmentor is EncoderDecoder)
    weight = model.backbone.layer1[0].conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def trained(row):
    """The parameters that are trained, and the batch norms that update their statistics."""
    model = freeze.build_frozen(freeze.ROWS[row], TINY).train()
    modules = model.named_modules()
    return (
        {name for name, parameter in model.named_parameters() if parameter.requires_grad},
        {name for name, m in modules if isinstance(m, _BatchNorm) and m.training},
    )


def test_the_hook_freezes_what_frozen_stages_freezes():
    assert trained(freeze.OURS) == trained(freeze.STOCK) != trained(freeze.FULL)
    for names in trained(freeze.BACKBONE):
        assert {name.split('.')[0] for name in names} == {'decode_head', 'auxiliary_head'}


def test_half_precision_runs_under_autocast():
    settings = Settings(dtype='bfloat16', batch=2, channels=64, classes=3)
    module, (x,) = head.build('stock', (4, 4), settings)
    assert x.dtype == torch.bfloat16
    with settings.autocast():
        assert module([x]).dtype == torch.bfloat16
    passes.prepare_both(functools.partial(head.build, 'factorized', (4, 4), settings), settings)()


def test_compile_compiles(monkeypatch):
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))
    frames = torch._dynamo.utils.counters['frames']
    for compiled in (False, True):
        frames.clear()
        settings = Settings(compile=compiled, batch=2, channels=64, classes=3)
        build = functools.partial(head.build, 'factorized', (5, 5), settings)
        passes.prepare_forward(build, settings)()
        assert bool(frames['ok']) == compiled
