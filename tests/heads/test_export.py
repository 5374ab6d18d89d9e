"""The factorized head compiled and exported, at sizes that the pyramid's bins do not divide."""

import inspect

import onnxruntime
import pytest
import torch
from mmseg.models.decode_heads import PSPHead
from torch import nn

from pspnet_plugin.heads import FactorizedPSPHead, PlainPSPHead
from tests.helpers.heads import FAMILIES, OfOneMap
from tests.helpers.torch_features import VERSION

HEIGHT_WIDTH = (250, 330)  # a feature map of 32 x 42: not divisible by 3 or 6
OTHER_SIZES = [(333, 201), (80, 97)]
CHOOSES_EXPORTER = 'dynamo' in inspect.signature(torch.onnx.export).parameters
BY_TORCHSCRIPT = {'dynamo': False} if CHOOSES_EXPORTER else {}

needs_sizes_in_export = pytest.mark.skipif(
    VERSION < (2, 5), reason='torch.export before 2.5 has no Dim, or makes conditions of the sizes'
)
needs_dynamo_exporter = pytest.mark.skipif(
    VERSION < (2, 5), reason='torch.onnx.export before 2.5 has no dynamo=True, or another one'
)
needs_whole_graphs = pytest.mark.skipif(
    not hasattr(getattr(torch, 'compiler', None), 'is_compiling'),
    reason='torch.compile before 2.3 leaves the graph for promote_types() and accumulate()',
)


class Segmenter(nn.Module):
    """A stride-8 convolution for a backbone, and a head."""

    def __init__(self, cls, **kwargs):
        super().__init__()
        torch.manual_seed(0)
        of_maps = 'in_index' in kwargs
        self.backbone = nn.Conv2d(3, 6 if of_maps else 16, 3, stride=8, padding=1)
        small = {'in_channels': 16, 'channels': 8, 'num_classes': 5, 'norm_cfg': {'type': 'BN'}}
        head = cls(**{**small, **kwargs})
        self.head = OfOneMap(head) if of_maps else head

    def forward(self, image):
        return self.head([self.backbone(image)])


OURS = {name: (cls, kwargs) for name, (_, cls, kwargs) in FAMILIES.items() if name != 'ocr'}
OURS.update(psp=(FactorizedPSPHead, {}), plain=(PlainPSPHead, {}))


# All upsample by the same functions: two heads stand for them with aligned corners.
CASES = {f'{name}-half-pixel': (*case, False) for name, case in OURS.items()}
CASES |= {f'{name}-align-corners': (*OURS[name], True) for name in ('psp', 'uper')}


@pytest.fixture(params=CASES.values(), ids=CASES)
def segmenter(request):
    cls, kwargs, align_corners = request.param
    return Segmenter(cls, **kwargs, align_corners=align_corners).eval()


def image(size=HEIGHT_WIDTH):
    return torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))


def assert_onnx_runtime_agrees(path, model, sizes):
    session = onnxruntime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    for size in sizes:
        (result,) = session.run(None, {session.get_inputs()[0].name: image(size).numpy()})
        expected = model(image(size))
        assert (torch.from_numpy(result) - expected).abs().max() <= 1e-4 * expected.abs().max()


def dynamic_size():
    return ({2: torch.export.Dim('height', min=64), 3: torch.export.Dim('width', min=64)},)


@needs_whole_graphs
def test_compiled_without_a_break_it_trains_alike():
    model = Segmenter(FactorizedPSPHead, dropout_ratio=0).double().eval()
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    gradients = []
    for forward in (model, compiled):
        forward(image().double()).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
        model.zero_grad()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-9, atol=1e-9)


@needs_whole_graphs
def test_compiled_for_any_size_it_needs_no_second_graph():
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    # In float32 torch itself keeps another graph for convolutions of small maps on a CPU.
    model = Segmenter(FactorizedPSPHead).double().eval()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    with torch.no_grad():
        for size in [HEIGHT_WIDTH, *OTHER_SIZES, (385, 270)]:
            x = image(size).double()
            torch.testing.assert_close(compiled(x), model(x))
    assert len(graphs) == 1


@needs_sizes_in_export
def test_exported_program_takes_any_size(segmenter):
    program = torch.export.export(segmenter, (image(),), dynamic_shapes=dynamic_size())
    for size in [HEIGHT_WIDTH, *OTHER_SIZES]:
        torch.testing.assert_close(program.module()(image(size)), segmenter(image(size)))


def test_torchscript_exporter_writes_onnx_of_fixed_size(segmenter, tmp_path):
    path = tmp_path / 'fixed.onnx'
    torch.onnx.export(segmenter, (image(),), str(path), **BY_TORCHSCRIPT)
    assert_onnx_runtime_agrees(path, segmenter, [HEIGHT_WIDTH])


def test_torchscript_exporter_writes_onnx_of_any_size(segmenter, tmp_path):
    path = tmp_path / 'dynamic.onnx'
    axes = {'image': {2: 'height', 3: 'width'}}
    torch.onnx.export(
        segmenter, (image(),), str(path), **BY_TORCHSCRIPT, input_names=['image'], dynamic_axes=axes
    )
    assert_onnx_runtime_agrees(path, segmenter, [HEIGHT_WIDTH, *OTHER_SIZES])


def test_torchscript_exporter_refuses_the_stock_head_here(tmp_path):
    with pytest.raises(torch.onnx.errors.SymbolicValueError, match='adaptive_avg_pool2d'):
        torch.onnx.export(
            Segmenter(PSPHead).eval(), (image(),), str(tmp_path / 'stock.onnx'), **BY_TORCHSCRIPT
        )


@needs_dynamo_exporter
def test_dynamo_exporter_writes_onnx_of_any_size(tmp_path):
    segmenter = Segmenter(FactorizedPSPHead, align_corners=True).eval()
    path = tmp_path / 'dynamic.onnx'
    torch.onnx.export(
        segmenter, (image(),), path, dynamo=True, verbose=False, dynamic_shapes=dynamic_size()
    )
    assert_onnx_runtime_agrees(path, segmenter, [HEIGHT_WIDTH, *OTHER_SIZES])
