"""Boundaries, calibration and intervals, against other ways to compute them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from pspnet_plugin.app.reports.evaluation import doubts_about
from pspnet_plugin.app.reports.metrics import (
    areas_of,
    boundary_areas,
    calibration_error,
    confidence_bins,
    count_pairs,
    interval,
    ious_of,
    mean_of,
    resampled_ious,
)
from tests.helpers.folders import mask_of


def test_boundaries_are_the_pixels_near_the_contours_of_each_mask():
    labels, predicted = mask_of(1, size=(90, 120)), mask_of(2, size=(90, 120))
    labels[:20, :30] = predicted[60:, :20] = 255
    valid, width = (labels != 255) & (predicted != 255), 3  # 2 % of a diagonal of 150 pixels
    square = np.ones((3, 3), bool)
    for number, found in enumerate(boundary_areas(labels, predicted, 3).T):
        masks = [valid & (values == number) for values in (labels, predicted)]
        edges = [mask & ~ndimage.binary_erosion(mask, square, width) for mask in masks]
        assert found.tolist() == [(edges[0] & edges[1]).sum(), (edges[0] | edges[1]).sum()]


def test_a_class_that_is_nowhere_has_no_boundary_and_no_iou():
    labels, predicted = mask_of(1, 2), mask_of(2, 2)
    assert boundary_areas(labels, predicted, 3)[:, 2].tolist() == [0, 0]
    ious = ious_of(areas_of(count_pairs(labels, predicted, 3)))
    assert np.isnan(ious).tolist() == [False, False, True]
    assert mean_of(ious) == pytest.approx(np.nanmean(ious))


def test_a_model_that_is_right_as_often_as_it_is_sure_has_no_calibration_error():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1, (400, 500))
    for offset, expected in ((0, 0), (-0.2, 0.2)):
        right = rng.uniform(size=confidence.shape) < confidence + offset
        bins = confidence_bins(confidence, np.ones_like(right, int), right.astype(int), 2)
        assert calibration_error(bins) == pytest.approx(expected, abs=0.01)
    ignored = confidence_bins(confidence, np.full(right.shape, 255), right.astype(int), 2)
    assert np.isnan(calibration_error(ignored))


def made_areas(rng, images):
    """Areas of images: classes of very different sizes, some images much worse than others."""
    sizes = rng.gamma(2, 1, (images, 3)) * [1000, 300, 60]
    right = sizes * rng.beta(6, 2, sizes.shape)
    return np.stack([right, sizes, right + sizes * rng.beta(1.5, 8, sizes.shape)], axis=1)


@pytest.mark.parametrize('images', [10, 25, 100])
def test_95_of_100_intervals_hold_the_true_miou(images):
    rng = np.random.default_rng(images)
    true = mean_of(ious_of(made_areas(rng, 1_000_000).sum(0)))
    draws = 200
    held = 0
    for _ in range(draws):
        low, high = interval(mean_of(resampled_ious(made_areas(rng, images))), images)
        held += low <= true <= high
    assert 93 <= 100 * held / draws <= 97


def test_intervals_of_a_difference_are_paired_and_hold_it():
    rng = np.random.default_rng(1)
    first = made_areas(rng, 60)
    second = first.copy()
    second[:, 0] *= 0.97  # a little worse in each image
    draws = [mean_of(resampled_ious(areas)) for areas in (first, second)]
    low, high = interval(draws[1] - draws[0], 60)
    assert low < mean_of(ious_of(second.sum(0))) - mean_of(ious_of(first.sum(0))) < high < 0
    alone = [interval(drawn, 60) for drawn in draws]
    assert alone[1][1] > alone[0][0]  # which alone would say nothing


def test_one_image_has_no_interval():
    areas = made_areas(np.random.default_rng(0), 1)
    assert np.isnan(interval(mean_of(resampled_ious(areas)), 1)).all()


@pytest.mark.parametrize(
    ('change', 'found'),
    [
        ({}, [((50, 30, 20, 10), 0, 2)]),
        ({'confidence': 0.7}, []),  # not sure
        ({'thin': True}, []),  # a border that is drawn another way
        ({'elsewhere': True}, []),  # of a model that is wrong all over
        ({'ignored': True}, []),
    ],
)
def test_a_label_is_doubtful_where_a_good_model_is_sure_of_another_class(change, found):
    predicted = np.zeros((100, 150), np.uint8)
    predicted[30:40, 50 : 53 if change.get('thin') else 70] = 2
    labels = np.zeros_like(predicted)
    if change.get('ignored'):
        labels[20:50, 40:80] = 255
    if change.get('elsewhere'):
        labels[60:] = 1
    confidence = np.full(labels.shape, change.get('confidence', 0.97), np.float32)
    confidence[labels == 1] = 0.5
    doubts = doubts_about(labels, predicted, confidence, 3)
    assert [(doubt.box, doubt.label, doubt.predicted) for doubt in doubts] == found
