"""Settings of a wrong type or value are one error each, wherever they are given."""

from __future__ import annotations

import os

import pytest
from torch import nn

from pspnet_plugin.pretrained import (
    PretrainedBackbone,
    PretrainedBackboneHook,
    PretrainedWeightsError,
    load_pretrained,
)
from pspnet_plugin.pretrained.settings import LoadSettings
from tests.helpers.attacks import Payload
from tests.helpers.networks import saved

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
    'trust_pickle': ['no', 'False', 1, None],
    'classes': ['byname', True],
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


@pytest.mark.parametrize('owner', [PretrainedBackbone, PretrainedBackboneHook])
def test_a_misspelt_setting_is_an_error_that_names_the_right_one(owner):
    for wrong, right in (('min_covrage', 'min_coverage'), ('chekpoint', 'checkpoint')):
        message = f"{owner.__name__} has no setting '{wrong}'. Did you mean {right}?"
        with pytest.raises(PretrainedWeightsError, match=message):
            owner(**{'checkpoint': 'weights.pth', wrong: 0.9})


def test_a_checkpoint_must_be_given():
    for owner in (PretrainedBackbone, PretrainedBackboneHook):
        with pytest.raises(PretrainedWeightsError, match="checkpoint='' .*torchvision://"):
            owner()


def test_the_hook_names_its_own_settings_too():
    with pytest.raises(PretrainedWeightsError, match="no setting 'modul'. Did you mean module?"):
        PretrainedBackboneHook('weights.pth', modul='backbone')


@pytest.mark.parametrize('trust', ['no', 'False', 0])
def test_code_in_a_file_does_not_run_unless_trust_pickle_is_true_itself(tmp_path, trust):
    mark = tmp_path / 'was_here'
    file = saved({'x': Payload(os.mkdir, str(mark))}, tmp_path / 'attack.pth')
    with pytest.raises(PretrainedWeightsError, match='trust_pickle'):
        load_pretrained(nn.Linear(2, 2), file, trust_pickle=trust)
    assert not mark.exists()


def test_a_hash_of_decimal_digits_may_come_as_an_integer():
    assert LoadSettings('weights.pth', sha256=57934424).sha256 == '57934424'
