"""The examples on which a segmentor is folded are images that it takes."""

import torch
from mmengine.registry import init_default_scope
from mmseg.registry import MODELS

from pspnet_plugin.speed.examples import example_runs
from pspnet_plugin.speed.folding import fold_batch_norms
from tests.helpers.networks import randomized

BN = {'type': 'BN'}


def test_a_head_that_pools_wide_windows_is_folded():
    init_default_scope('mmseg')
    config = {
        'type': 'EncoderDecoder',
        'backbone': {
            'type': 'MobileNetV3',
            'arch': 'small',
            'out_indices': (0, 1, 12),
            'norm_cfg': BN,
        },
        'decode_head': {
            'type': 'LRASPPHead',
            'in_channels': (16, 16, 576),
            'in_index': (0, 1, 2),
            'input_transform': 'multiple_select',
            'channels': 128,
            'num_classes': 3,
            'norm_cfg': BN,
            'act_cfg': {'type': 'ReLU'},
            'loss_decode': {'type': 'CrossEntropyLoss'},
        },
        'test_cfg': {'mode': 'whole'},
    }
    model = randomized(MODELS.build(config)).eval()
    folded, count = fold_batch_norms(model, *example_runs(model))
    assert count > 20
    image = torch.randn(1, 3, 500, 468, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = model(image, mode='tensor'), folded(image, mode='tensor')
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * expected.abs().max().item())
