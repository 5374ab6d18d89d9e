"""Settings of a wrong type or value are one error each, wherever they are given."""

from __future__ import annotations

import pytest
from torch import nn

from pspnet_plugin.pretrained import (
    PretrainedBackbone,
    PretrainedBackboneHook,
    PretrainedWeightsError,
    load_pretrained,
)
from pspnet_plugin.pretrained.settings import LoadSettings

WRONG = {
    'prefix': [5, ['backbone']],
    'conversion': ['caffe', None],
    'key_map': [
        'layer1',
        ['ab', 'cd'],
        {'a': 'b'},
        [('a', 3)],
        [('a', 'b', 'c')],
        [('(', 'x')],
        [('layer', r'\g<nothing>')],
    ],
    'first_conv': ['average', 3, {'channels': 4}, {'channels': []}, {'channels': ['R', 'IR']}],
    'min_coverage': ['0.9', 90, -0.1, True, float('nan')],
    'sha256': ['xyz', '1234567', 1234567, True, 'g' * 64, 'a' * 72, 'md5:3a6eb079', 3.5],
    'trust_pickle': ['no', 'False', 0, 1, None],
    'classes': ['byname', 'by_order', True],
    'class_names': ['car', [1, 2]],
    'checkpoint': ['', None, 7],
}
CASES = [(name, value) for name, values in WRONG.items() for value in values]


@pytest.mark.parametrize(('name', 'value'), CASES, ids=[f'{n}={v!r}' for n, v in CASES])
def test_a_wrong_value_is_an_error_that_names_the_setting(name, value):
    settings = {'checkpoint': 'weights.pth', name: value}
    for owner in (PretrainedBackbone, PretrainedBackboneHook):
        with pytest.raises(PretrainedWeightsError, match=name):
            owner(**settings)
    with pytest.raises(PretrainedWeightsError, match=name):
        load_pretrained(nn.Linear(2, 2), **settings)


@pytest.mark.parametrize(
    ('owner', 'wrong', 'right'),
    [
        (PretrainedBackbone, 'min_covrage', 'min_coverage'),
        (PretrainedBackbone, 'chekpoint', 'checkpoint'),
        (PretrainedBackboneHook, 'min_covrage', 'min_coverage'),
        (PretrainedBackboneHook, 'modul', 'module'),
    ],
)
def test_a_misspelt_setting_is_an_error_that_names_the_right_one(owner, wrong, right):
    message = f"{owner.__name__} has no setting '{wrong}'. Did you mean {right}?"
    with pytest.raises(PretrainedWeightsError, match=message):
        owner(**{'checkpoint': 'weights.pth', wrong: 0.9})


def test_a_checkpoint_must_be_given():
    for owner in (PretrainedBackbone, PretrainedBackboneHook):
        with pytest.raises(PretrainedWeightsError, match="checkpoint='' .*torchvision://"):
            owner()


def test_a_hash_of_decimal_digits_may_come_as_an_integer():
    assert LoadSettings('weights.pth', sha256=57934424).sha256 == '57934424'
