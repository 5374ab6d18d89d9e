"""``FactorizedFCNHead`` against mmseg's ``FCNHead``, all but its loss."""

import pytest
import torch
from mmseg.models.decode_heads import FCNHead

from pspnet_plugin.heads import FactorizedFCNHead
from tests.helpers.heads import CONCATENATED, SMALL, assert_equal_results, run, same_heads
from tests.helpers.maps import Convolutions


@pytest.mark.parametrize(
    'kwargs',
    [
        {},
        {'num_convs': 1, 'concat_input': False},
        {'num_convs': 0, 'in_channels': 4, 'concat_input': False},
        {'kernel_size': 1},
        {'dilation': 2},
        {'conv_cfg': {'type': 'ConvWS'}},
    ],
    ids=str,
)
def test_auxiliary_head_has_the_outputs_and_gradients_of_stock(kwargs):
    torch.manual_seed(0)
    stock, ours = same_heads(FCNHead, FactorizedFCNHead, {**SMALL, **kwargs})
    stock.double(), ours.double()
    assert list(ours.state_dict()) == list(stock.state_dict())
    x = torch.randn(2, stock.in_channels, 9, 11, dtype=torch.float64)
    assert_equal_results(run(ours, x), run(stock, x))


def test_wide_auxiliary_head_convolves_over_tiles():
    torch.manual_seed(0)
    wide = {'in_channels': 256, 'channels': 256, 'num_convs': 1, 'concat_input': False}
    heads = [h.double() for h in same_heads(FCNHead, FactorizedFCNHead, {**SMALL, **wide})]
    x = torch.randn(1, 256, 31, 35, dtype=torch.float64)
    with Convolutions() as of_stock:
        expected = run(heads[0], x)
    with Convolutions() as of_ours:
        assert_equal_results(run(heads[1], x), expected)
    assert (256, 256, 3, 3) in of_stock.weights
    assert (256, 256, 3, 3) not in of_ours.weights


def test_a_derived_head_that_transforms_its_maps_gets_them_so():
    def derived(base):
        class Halved(base):
            def _transform_inputs(self, inputs):
                return super()._transform_inputs([x / 2 for x in inputs])

        return Halved

    config = {**CONCATENATED, 'concat_input': False}
    stock, ours = same_heads(derived(FCNHead), derived(FactorizedFCNHead), config)
    maps = [torch.randn(2, 6, side, side, dtype=torch.float64) for side in (9, 5, 3)]
    assert_equal_results(run(ours.double(), *maps), run(stock.double(), *maps))
