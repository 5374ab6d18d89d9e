"""What GPUs are given and compute, seen without one: tensors of a device that have no values, which
have autocast, or whose values are on the CPU. On both, what would wait for a GPU raises.
"""

import contextlib
import statistics
from unittest import mock

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch._subclasses.fake_tensor import FakeTensorMode

from pspnet_plugin.app.export.runtimes import HAS_DYNAMO_EXPORTER
from pspnet_plugin.ops import pyramid, stacked_levels
from pspnet_plugin.ops.label_map import label_map
from pspnet_plugin.ops.stacked_levels import conv2d_over_stacked, fine_and_coarse
from tests.helpers.gpu_with_values import OnGpu, gpu_with_values, move_to_gpu
from tests.helpers.heads import FAMILIES, assert_equal_results, both_heads
from tests.helpers.maps import LAYOUTS, random_map, stock_conv
from tests.helpers.torch_features import skip_unless_computed

layouts = pytest.mark.parametrize('layout', LAYOUTS.values(), ids=LAYOUTS)
families = pytest.mark.parametrize('family', [name for name in FAMILIES if name != 'plain'])


@pytest.fixture(params=[0, 1, 9], ids=['levels first', 'one as in stock', 'as in stock'])
def way(request, monkeypatch):
    """How many levels are upsampled before the convolution, however small the maps."""
    split = request.param
    monkeypatch.setattr(
        pyramid, 'fine_and_coarse', lambda x, levels, weight: (levels[:split], levels[split:])
    )
    monkeypatch.setattr(pyramid, 'WORTH_POOLING_ONCE', 0 if split == 0 else 10**18)


def heads_and_inputs(family, device, layout=torch.contiguous_format):
    stock, ours, config = FAMILIES[family]
    with torch.device(device):
        heads = [kind(**config) for kind in (stock, ours)]
        maps = [torch.empty(2, 6, side, side) for side in (32, 16, 8)]
        more = [torch.empty(2, 3, 32, 32)] if family == 'ocr' else []
    maps = [each.to(memory_format=layout) for each in (maps[:1] if family == 'psp' else maps)]
    return heads, maps, more


@contextlib.contextmanager
def gpu():
    """A CUDA device whose tensors have no values; what is recorded is what a GPU would be given."""
    with contextlib.ExitStack() as stack:
        for module in (pyramid, stacked_levels):
            stack.enter_context(mock.patch.object(module, 'is_recorded', return_value=False))
        # Or autocast would turn itself off.
        unavailable = 'torch.cuda.amp.common.amp_definitely_not_available'
        stack.enter_context(mock.patch(unavailable, return_value=False))
        stack.enter_context(mock.patch('torch.cuda.is_bf16_supported', return_value=True))
        stack.enter_context(FakeTensorMode())
        try:
            torch.empty(1, device='cuda')
        except RuntimeError as error:  # of torch 2.1
            pytest.skip(f'fake tensors need the driver of a GPU here: {error}')
        yield


@families
@layouts
@pytest.mark.usefixtures('way')
def test_a_gpu_gets_logits_of_the_kind_of_stock(family, layout):
    with gpu():
        heads, maps, more = heads_and_inputs(family, 'cuda', layout)
        for dtype in (None, torch.float16, torch.bfloat16):
            with torch.autocast('cuda', dtype, enabled=dtype is not None):
                stock, ours = (head(maps, *more) for head in heads)
            assert stock.dtype == (dtype or torch.float32)
            kinds = [(out.device, out.dtype, out.shape) for out in (ours, stock)]
            assert kinds[0] == kinds[1]


def training_and_prediction(head, maps, more, labels):
    """Logits, loss, accuracy, all gradients and the label map of the first image."""
    maps = [x.requires_grad_() for x in maps]
    logits = head(maps, *more)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=each[None])) for each in labels]
    losses = head.loss_by_feat(logits, samples)
    # The loss alone has a gradient that batch norm nearly makes zero for some maps.
    (losses['loss_ce'] + (logits * logits.detach()).sum()).backward()
    results = {'logits': logits.detach(), **losses, 'map': label_map(logits[0], (64, 48), (50, 70))}
    results.update((f'x{i}', x.grad) for i, x in enumerate(maps))
    return {**results, **{name: weight.grad for name, weight in head.named_parameters()}}


@families
@layouts
@pytest.mark.usefixtures('way')
def test_a_gpu_computes_what_stock_does_and_waits_for_nothing(family, layout):
    stock, ours = (head.double() for head in both_heads(family))
    sides = [(13, 10)] if family == 'psp' else [(13, 10), (7, 5), (1, 3)]
    maps = [random_map(2, 6, *side, layout=layout, seed=side[0]).detach() for side in sides]
    more = [random_map(2, 3, 13, 10).detach()] if family == 'ocr' else []
    labels = torch.randint(3, (2, 26, 20))
    labels[0, :5] = 255
    expected = training_and_prediction(stock, [x.clone() for x in maps], more, labels)
    with gpu_with_values():
        move_to_gpu(ours)
        tensors = ([OnGpu(x) for x in each] for each in (maps, more))
        results = training_and_prediction(ours, *tensors, OnGpu(labels))
    found = {name: x if x is None else x.detach().value for name, x in results.items()}
    assert (found.pop('map') == expected.pop('map')).all()
    assert_equal_results(found, expected)


def shapes_of_pspnet(side, batch=2):
    """x, its levels and the weight of the bottleneck of PSPNet-R50 for a map of side x side."""
    x = torch.empty(batch, 2048, side, side, device='meta')
    levels = [torch.empty(batch, 512, bins, bins, device='meta') for bins in (1, 2, 3, 6)]
    return x, levels, torch.empty(512, 4096, 3, 3, device='meta')


def test_small_maps_are_concatenated_and_large_ones_convolved_first():
    x, levels, weight = shapes_of_pspnet(8)
    assert fine_and_coarse(x, levels, weight) == (levels, [])
    x, levels, weight = shapes_of_pspnet(64)
    assert fine_and_coarse(x, levels, weight) == ([], levels)


def test_a_level_as_fine_as_the_map_is_never_convolved_first():
    x, levels, weight = shapes_of_pspnet(64)
    finest = torch.empty_like(x)
    weight = torch.empty(512, 6144, 3, 3, device='meta')
    assert fine_and_coarse(x, [finest, *levels], weight) == ([finest], levels)


@pytest.mark.skipif(not HAS_DYNAMO_EXPORTER, reason='older torch exports no open sizes')
def test_an_export_away_from_cpus_takes_any_size():
    (_, head), (x,), _ = heads_and_inputs('psp', 'meta')
    sizes = {0: torch.export.Dim('n', min=2), 2: torch.export.Dim('h'), 3: torch.export.Dim('w')}
    program = torch.export.export(head.eval(), ([x],), dynamic_shapes=([sizes],))
    assert program.module()([torch.empty(5, 6, 40, 24, device='meta')]).shape == (5, 3, 40, 24)


@layouts
@pytest.mark.parametrize('kernel', [1, 3])
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_of_stacked_levels_is_as_exact_as_stock(layout, kernel, dtype):
    skip_unless_computed(dtype)
    x = random_map(2, 32, 24, 40, layout=layout, dtype=dtype)
    levels = [random_map(2, 16, side, side, dtype=dtype, seed=side) for side in (12, 6, 1)]
    weight = random_map(16, 80, kernel, kernel, layout=layout, dtype=dtype, seed=1)
    weight = weight / weight[0].numel() ** 0.5
    leaves = [x, *levels, weight]
    grad = random_map(2, 16, 24, 40, layout=layout, dtype=dtype, seed=2)

    def results(conv2d, tensors):
        x, *levels, weight = (each.detach().requires_grad_() for each in tensors)
        out = conv2d(x, levels, weight)
        return [out, *torch.autograd.grad(out, (x, *levels, weight), grad.to(out.dtype))]

    def stacked(x, levels, weight):
        return conv2d_over_stacked(x, levels[:1], levels[1:], weight)

    def stock(x, levels, weight):
        return stock_conv(x, levels, weight, None, False)

    truth = results(stock, [each.double() for each in leaves])
    ratios = []
    for ours, theirs, exact in zip(results(stacked, leaves), results(stock, leaves), truth):
        errors = [(each.double() - exact).norm().item() for each in (ours, theirs)]
        assert errors[0] <= torch.finfo(dtype).eps * exact.norm()
        ratios.append(errors[0] / errors[1])
    # A single ratio of two random errors says little.
    assert statistics.geometric_mean(ratios) <= 1.5
