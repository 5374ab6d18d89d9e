"""The label map against mmseg's resizes and argmax, and the segmentor that offers it."""

import copy
from unittest import mock

import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmseg.models.decode_heads import FCNHead
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from torch.profiler import ProfilerActivity, profile

from pspnet_plugin.errors import PredictionError
from pspnet_plugin.ops.label_map import bounded, first_argmax, label_map
from pspnet_plugin.ops.row_chunks import CHUNK_BYTES

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


def stock_label_map(logits, input_size, original_size, padding, flip_direction, align_corners):
    def resize(x, size):
        return F.interpolate(x, size, mode='bilinear', align_corners=align_corners)

    full = resize(logits[None], input_size)
    left, right, top, bottom = padding
    full = full[..., top : input_size[0] - bottom, left : input_size[1] - right]
    if flip_direction:
        full = full.flip(3 if flip_direction == 'horizontal' else 2)
    return resize(full, original_size)[0].argmax(0, keepdim=True)


@settings(max_examples=60, deadline=None)
@given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    SIZES,
    SIZES,
    st.tuples(*[st.integers(0, 9)] * 4),
    st.sampled_from([None, 'horizontal', 'vertical']),
    st.booleans(),
    st.integers(1, 5000),
)
@example((9, 12), (9, 12), (9, 12), (0, 0, 0, 0), None, False, 500)
def test_label_map_has_the_pixels_of_two_resizes_and_argmax(
    small, inner, original, padding, flip_direction, align_corners, seed
):
    logits = torch.randn(5, *small, generator=torch.Generator().manual_seed(seed)).double()
    left, right, top, bottom = padding
    arguments = (
        (inner[0] + top + bottom, inner[1] + left + right),
        original,
        padding,
        flip_direction,
        align_corners,
    )
    with mock.patch.dict(CHUNK_BYTES, cpu=seed):
        labels = label_map(logits, *arguments)
    expected = stock_label_map(logits, *arguments)
    assert labels.dtype == expected.dtype
    assert torch.equal(labels, expected)


@pytest.mark.parametrize('classes', [2, 19, 150])
def test_label_map_agrees_on_nearly_every_pixel_in_float32(classes):
    logits = torch.randn(classes, 16, 24, generator=torch.Generator().manual_seed(0))
    arguments = ((128, 192), (250, 400), (0, 0, 0, 0), None, False)
    agreed = label_map(logits, *arguments) == stock_label_map(logits, *arguments)
    assert agreed.double().mean() >= 0.9999


@pytest.mark.parametrize('size', [(20000, 3), (2, 20000)])
def test_label_map_of_a_line_takes_no_more_memory_than_its_logits(size):
    small = [max(1, side // 8) for side in size]
    logits = torch.randn(4, *small, generator=torch.Generator().manual_seed(0))
    arguments = logits, size, size, (0, 0, 0, 0), None, False
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        labels = label_map(*arguments)
    assert torch.equal(labels, stock_label_map(*arguments))
    taken = [event.self_cpu_memory_usage for event in profiler.events()]
    assert sum(size for size in taken if size > 0) < 10 * 4 * 4 * labels.numel()


def test_first_of_equal_scores_wins():
    scores = torch.randint(3, (7, 6, 40), generator=torch.Generator().manual_seed(0)).float()
    assert torch.equal(first_argmax(scores.clone()), scores.argmax(1))


def test_pixels_without_a_number_get_some_class():
    scores = torch.randn(2, 6, 40)
    scores[0, 3] = torch.nan
    labels = first_argmax(scores.clone())
    assert torch.equal(labels[1], scores[1].argmax(0))
    assert labels.min() >= 0
    assert labels.max() < 6


def build(segmentor_type, test_cfg, out_channels=5, **head):
    decode_head = {
        'type': 'FCNHead',
        'in_channels': 16,
        'channels': 8,
        'num_convs': 1,
        'concat_input': False,
        'num_classes': max(out_channels, 2),
        'out_channels': out_channels,
        'threshold': 0.485,
        'init_cfg': {'type': 'Normal', 'std': 1.0, 'override': {'name': 'conv_seg'}},
        **head,
    }
    backbone = {
        'type': 'ResNet',
        'depth': 18,
        'base_channels': 2,
        'stem_channels': 2,
        'norm_cfg': {'type': 'BN'},
    }
    cfg = ConfigDict(type=segmentor_type, backbone=backbone, decode_head=decode_head)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmseg'):
        segmentor = MODELS.build(ConfigDict(cfg, test_cfg=test_cfg))
    segmentor.init_weights()
    return segmentor.double().eval()  # in float64, rounding decides no label


def sample(**meta):
    meta = {'ori_shape': (50, 61), 'img_shape': (96, 100), 'pad_shape': (96, 128), **meta}
    return SegDataSample(metainfo=meta)


SAMPLES = [sample(padding_size=[0, 28, 0, 0]), sample(flip=True, flip_direction='horizontal')]


@torch.no_grad()
def predict(segmentor, samples=SAMPLES):
    inputs = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    return segmentor.predict(inputs.double(), copy.deepcopy(samples))


def assert_same_labels(ours, stock):
    for mine, theirs in zip(ours, stock):
        labels, expected = mine.pred_sem_seg.data, theirs.pred_sem_seg.data
        assert labels.dtype == expected.dtype
        assert torch.equal(labels, expected)
        assert expected.unique().numel() > 1, 'a constant map would prove nothing'


@pytest.mark.parametrize('samples', [SAMPLES, None], ids=['data samples', 'images alone'])
def test_segmentor_predicts_stock_labels_without_the_logits(samples):
    stock = predict(build('EncoderDecoder', {'mode': 'whole'}), samples)
    ours = predict(build('LabelMapEncoderDecoder', {'mode': 'whole', 'seg_logits': False}), samples)
    assert_same_labels(ours, stock)
    assert all('seg_logits' not in sample for sample in ours)


@pytest.mark.parametrize('direction', ['diagonal', None, 'Horizontal'])
def test_flip_that_stock_does_not_undo_is_refused_as_stock_refuses_it(direction):
    samples = [sample(), sample(flip=True, flip_direction=direction)]
    with pytest.raises(AssertionError):
        predict(build('EncoderDecoder', {'mode': 'whole'}), samples)
    with pytest.raises(PredictionError, match=f'direction {direction!r}'):
        predict(build('LabelMapEncoderDecoder', {'mode': 'whole', 'seg_logits': False}), samples)


@pytest.mark.parametrize(
    ('test_cfg', 'out_channels'),
    [
        ({'mode': 'whole'}, 5),
        ({'mode': 'slide', 'crop_size': (64, 64), 'stride': (32, 48), 'seg_logits': False}, 5),
        ({'mode': 'whole', 'seg_logits': False}, 1),
    ],
    ids=['not asked for', 'sliding window', 'single output channel'],
)
def test_segmentor_predicts_as_stock_where_the_logits_are_needed(test_cfg, out_channels):
    stock = predict(build('EncoderDecoder', test_cfg, out_channels))
    ours = predict(build('LabelMapEncoderDecoder', test_cfg, out_channels))
    assert_same_labels(ours, stock)
    assert all('seg_logits' in sample for sample in ours)


@MODELS.register_module()
class HeadThatPredictsItsOwnWay(FCNHead):
    def predict_by_feat(self, seg_logits, batch_img_metas):
        return -super().predict_by_feat(seg_logits, batch_img_metas)


def test_head_with_its_own_predict_is_predicted_as_in_stock():
    test_cfg = {'mode': 'whole', 'seg_logits': False}
    stock, ours = (
        predict(build(name, test_cfg, type='HeadThatPredictsItsOwnWay'))
        for name in ('EncoderDecoder', 'LabelMapEncoderDecoder')
    )
    assert_same_labels(ours, stock)


@pytest.mark.parametrize('replaced', ['postprocess_result', 'encode_decode', 'decode_head.predict'])
def test_a_step_of_prediction_that_somebody_replaced_runs(replaced):
    segmentor = build('LabelMapEncoderDecoder', {'mode': 'whole', 'seg_logits': False})
    owner, name = segmentor, replaced.rpartition('.')[2]
    if '.' in replaced:
        owner = segmentor.decode_head
    called = mock.Mock(wraps=getattr(owner, name))
    setattr(owner, name, called)
    predict(segmentor)
    called.assert_called_once()


def test_test_time_augmentation_over_label_maps_gets_its_logits():
    results = []
    for model, segmentor in (
        ('SegTTAModel', build('EncoderDecoder', {'mode': 'whole'})),
        ('LogitsTTAModel', build('LabelMapEncoderDecoder', {'mode': 'whole', 'seg_logits': False})),
    ):
        tta = MODELS.build({'type': model, 'module': segmentor})
        plain = sample(img_path='a.png')
        flipped = sample(img_path='a.png', flip=True, flip_direction='horizontal')
        views = predict(tta.module, [plain, flipped])
        results.append(tta.merge_preds([views]))
    assert segmentor.test_cfg['seg_logits'] is False
    assert torch.equal(*(merged[0].pred_sem_seg.data for merged in results))


def test_test_time_augmentation_compares_the_mean_probability_of_a_single_channel():
    """Stock takes the sigmoid of these probabilities, which is above half for each pixel."""
    segmentor = build('EncoderDecoder', {'mode': 'whole'}, 1)
    views = predict(segmentor, [sample(img_path='a.png'), sample(img_path='a.png')])
    mean = (views[0].seg_logits.data + views[1].seg_logits.data) / 2
    expected = (mean > segmentor.decode_head.threshold).to(mean)
    assert 0 < expected.mean() < 1
    merged = MODELS.build({'type': 'LogitsTTAModel', 'module': segmentor}).merge_preds([views])
    assert torch.equal(merged[0].pred_sem_seg.data, expected)


def test_test_time_augmentation_takes_a_segmentor_without_a_test_cfg():
    segmentor = build('EncoderDecoder', {'mode': 'whole'})
    del segmentor.test_cfg
    assert MODELS.build({'type': 'LogitsTTAModel', 'module': segmentor}).module.test_cfg.seg_logits


@pytest.mark.parametrize('align_corners', [False, True])
def test_one_infinite_logit_and_a_forbidden_class_change_the_labels_that_they_change_in_stock(
    align_corners,
):
    logits = torch.randn(5, 8, 10, generator=torch.Generator().manual_seed(0))
    arguments = ((64, 80), (50, 70), (0, 0, 0, 0), None, align_corners)
    one, forbidden = logits.clone(), logits.clone()
    one[2, 4, 5] = float('inf')
    forbidden[3] = -float('inf')
    for changed in (one, forbidden):
        expected = stock_label_map(changed, *arguments)
        assert torch.equal(label_map(changed, *arguments), expected)
        # As away from CPUs, where stock's own interpolation multiplies zero by infinity here and
        # there, and whatever is no number wins.
        labels = label_map(bounded(changed), *arguments)
        differs = labels != expected
        assert (expected[differs] == (2 if changed is one else 3)).all()
        assert (2 if changed is one else 3) not in labels[differs]


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
def test_bounded_scores_are_numbers_that_win_or_lose_as_infinities_do(value):
    scores = torch.randn(3, 4, 5)
    scores[1, 2, 3] = value
    assert bounded(scores).isfinite().all()
    assert torch.equal(bounded(scores).argmax(0), scores.argmax(0))
