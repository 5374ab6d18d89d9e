"""What is counted of the heads without a GPU, and that ours give a GPU no more to do than stock."""

import functools

import pytest
import torch
from benchmark import counting, heads

from pspnet_plugin.app.commands import main
from tests.helpers.heads import FAMILIES
from tests.helpers.maps import LAYOUTS

counter = pytest.importorskip('torch.utils.flop_counter')
pytestmark = pytest.mark.skipif(not hasattr(counter, 'flop_registry'), reason='torch >= 2.2')
SHAPES = [(36, 128, 128), (72, 64, 64), (144, 32, 32)]
WIDE = {'channels': 256, 'num_classes': 19, 'norm_cfg': {'type': 'BN'}}


def cases():
    """Each replaced head, where its levels are worth convolving first and where they are not."""
    for side in (16, 64):
        yield 'psp', heads.psp_head(2048, 19), [(2048, side, side)]
    for side in (128, 512):
        for name, (builds, shapes) in heads.other_heads((side, side)).items():
            yield name, builds, shapes
    for family in ('fcn', 'ocr'):
        stock, ours, config = FAMILIES[family]
        config = {**config, **WIDE, 'in_channels': [c for c, _, _ in SHAPES]}
        kinds = {'stock': stock, 'ours': ours}
        yield (
            family,
            {row: functools.partial(with_logits, kind, config) for row, kind in kinds.items()},
            SHAPES,
        )
    auxiliary = {
        'type': 'FCNHead',
        'in_channels': 1024,
        'num_convs': 1,
        'concat_input': False,
        **WIDE,
    }
    yield 'auxiliary', heads.stock_and_ours(auxiliary), [(1024, 64, 64)]


def with_logits(kind, config):
    """A head; OCR's second stage is given the logits of the first."""
    head = kind(**config)
    if kind.__name__.endswith('OCRHead'):
        logits = torch.empty(2, 19, *SHAPES[0][1:])
        head.forward = lambda maps, call=head.forward: call(maps, logits.to(maps[0]))
    return head


@pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
def test_no_head_gives_a_gpu_more_to_do_than_stock(layout, dtype):
    for name, builds, shapes in cases():
        stock, ours = (counting.operations(b, shapes, 2, dtype, layout) for b in builds.values())
        assert len(ours) <= 1.6 * len(stock), name
        assert sum(each.bytes for each in ours) <= 1.001 * sum(each.bytes for each in stock), name
        if dtype == torch.float16:
            for gpu, peaks in counting.GPUS.items():
                bounds = [counting.least_seconds(each, *peaks) for each in (ours, stock)]
                assert bounds[0] <= 1.01 * bounds[1], (name, gpu)


def test_a_convolution_is_counted_as_its_sizes_say():
    shapes = [(8, 10, 12)]
    build = functools.partial(heads.ConvolutionOfX, 8, 4, 3, padding=1, bias=False)
    forward, backward = counting.operations(build, shapes, 2)
    assert forward.flops == 2 * (2 * 4 * 8 * 9 * 10 * 12)
    assert forward.bytes == 2 * (2 * 8 * 120 + 4 * 8 * 9 + 2 * 4 * 120)
    assert backward.flops == 2 * forward.flops


def test_tensors_of_several_devices_are_refused():
    with counting.Operations(), pytest.raises(RuntimeError, match='several devices'):
        torch.empty(2, device='meta').copy_(torch.ones(2))


def test_the_command_compares_every_head_with_stock(capsys):
    assert main(['benchmark', 'count', '--markdown']) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith('|')]
    assert len(lines) == 2 + 2 * (2 + len(heads.CONFIGS))
    assert all(line.count(' x)') == 7 for line in lines[2:])


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU')
def test_without_a_gpu_its_benchmark_is_refused_in_one_line():
    with pytest.raises(SystemExit, match='there is no GPU here'):
        main(['benchmark', 'gpu'])
