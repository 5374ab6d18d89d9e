"""The heads under ``torch.fx``, ``torch.func``, forward-mode AD, and without images."""

import copy

import pytest
import torch
from mmengine.model.efficient_conv_bn_eval import turn_on_efficient_conv_bn_eval
from mmseg.models.decode_heads import FCNHead, PSPHead
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

from pspnet_plugin.heads import FactorizedFCNHead, FactorizedPSPHead, PlainPSPHead
from tests.helpers.heads import FAMILIES, SMALL, OfOneMap, TutorialPSPHead, both_heads, same_heads
from tests.helpers.torch_features import VERSION

PSP = {'pool_scales': (1, 2)}


needs_quantized_kernels = pytest.mark.skipif(
    'x86' not in torch.backends.quantized.supported_engines, reason='no quantized kernels here'
)


WIDE = {'in_channels': 256, 'channels': 256}
CASES = {
    'factorized': (PSPHead, FactorizedPSPHead, {**SMALL, **PSP}),
    'over tiles': (PSPHead, FactorizedPSPHead, {**SMALL, **PSP, **WIDE}),
    'plain': (TutorialPSPHead, PlainPSPHead, {**SMALL, **PSP}),
    'auxiliary': (FCNHead, FactorizedFCNHead, {**SMALL, 'num_convs': 2}),
    **{name: FAMILIES[name] for name in ('uper', 'segformer', 'fcn')},
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request):
    """Stock's head and ours with the same parameters, and a feature map, in float64."""
    stock_class, our_class, kwargs = request.param
    torch.manual_seed(0)
    stock, ours = same_heads(stock_class, our_class, kwargs)
    if stock.input_transform is not None:
        stock, ours = OfOneMap(stock), OfOneMap(ours)
    wide = kwargs['in_channels'] == 256  # convolved over tiles, which have a backward pass alone
    x = torch.randn(2, 256, 32, 33) if wide else torch.randn(2, 6, 9, 11)
    return stock.double().eval(), ours.double().eval(), x.double()


def assert_close(ours, stock):
    torch.testing.assert_close(ours, stock, rtol=1e-9, atol=1e-9)


def test_symbolic_trace_records_a_module_with_the_same_results(case):
    stock, ours, x = case
    traced = torch.fx.symbolic_trace(ours)
    traced.graph.lint()
    assert_close(traced([x]), stock([x]))
    assert_close(traced([x[..., :-2]]), stock([x[..., :-2]]))


def test_symbolic_trace_of_an_enclosing_model_takes_the_head_along(case):
    stock, ours, x = case
    traced = torch.fx.symbolic_trace(Network(ours))
    assert_close(traced(x), Network(stock)(x))


class Network(nn.Module):
    def __init__(self, head):
        super().__init__()
        self.head = head

    def forward(self, x):
        return self.head([x.relu()])


def test_mmengines_batch_norm_for_evaluation_finds_the_convolutions(case):
    stock, ours, x = case
    model = nn.Module()
    model.stock, model.ours = stock, ours
    turn_on_efficient_conv_bn_eval(model, ['stock', 'ours'])
    assert_close(ours.forward([x]), stock.forward([x]))


@pytest.mark.parametrize(
    ('case', 'mode'),
    [*((case, 'real') for case in CASES.values()), (CASES['factorized'], 'symbolic')],
    ids=[*CASES, 'factorized, symbolic'],
    indirect=['case'],
)
def test_make_fx_records_the_same_results(case, mode):
    stock, ours, x = case
    state = {**dict(ours.named_parameters()), **dict(ours.named_buffers())}

    def call(state, x):
        return torch.func.functional_call(ours, state, ([x],))

    with torch.no_grad():
        recorded = make_fx(call, tracing_mode=mode)(state, x)
        assert_close(recorded(state, x), stock([x]))
        assert_close(ours([x]), stock([x]))


def input_gradient(head):
    def gradient(x):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(head([x]).square().sum(), x)[0]

    return gradient


def test_make_fx_records_the_backward_pass(case):
    stock, ours, x = case
    assert_close(make_fx(input_gradient(ours))(x)(x), input_gradient(stock)(x))


def test_vmap_over_images(case):
    stock, ours, x = case
    assert_close(torch.func.vmap(lambda x: ours([x]))(x[:, None])[:, 0], stock([x]))


@pytest.mark.parametrize('part', ['', '.0.', 'bias'])
def test_vmap_over_parameters_is_an_ensemble(case, part):
    stock, ours, x = case
    with torch.no_grad():
        stacked, dims = {}, {}
        for name, value in stock.state_dict().items():
            several = part in name and value.is_floating_point()
            stacked[name] = torch.stack([value, 1.1 * value]) if several else value
            dims[name] = 0 if several else None
        results = []
        for head in (stock, ours):

            def call(state, x, head=head):
                return torch.func.functional_call(head, state, ([x],))

            results.append(torch.func.vmap(call, in_dims=(dims, None))(stacked, x))
    assert_close(results[1], results[0])


def test_gradients_of_each_image_by_vmap(case):
    results = []
    *heads, x = case
    for head in heads:
        parameters = {name: p.detach() for name, p in head.named_parameters()}

        def loss(parameters, x, head=head):
            return torch.func.functional_call(head, parameters, ([x[None]],)).square().sum()

        gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
        results.append(gradients)
    assert_close(results[1], results[0])


def test_jvp_is_that_of_stock(case):
    stock, ours, x = case
    tangent = torch.randn_like(x)
    results = [torch.func.jvp(lambda x, h=h: h([x]), (x,), (tangent,)) for h in (stock, ours)]
    assert_close(results[1], results[0])


def test_forward_mode_differentiation_is_that_of_stock(case):
    stock, ours, x = case
    tangent, results = torch.randn_like(x), []
    for head in (stock, ours):
        with forward_ad.dual_level():
            out = head([forward_ad.make_dual(x, tangent)])
            results.append(forward_ad.unpack_dual(out).tangent)
    assert_close(results[1], results[0])


def test_forward_over_reverse_is_that_of_stock(case):
    stock, ours, x = case
    tangent, results = torch.randn_like(x), []
    for head in (stock, ours):
        gradient = torch.func.grad(lambda x, head=head: head([x]).square().sum())
        results.append(torch.func.jvp(gradient, (x,), (tangent,)))
    assert_close(results[1], results[0])


def test_nothing_of_a_transform_stays_behind(case):
    stock, ours, x = case
    x = torch.cat([x, x[:, :, :, :3]], dim=3)  # a size of this test alone
    torch.func.vmap(torch.func.grad(lambda x: ours([x]).sum()))(x[:, None])
    assert_close(ours([x]), stock([x]))
    assert torch.autograd.grad(ours([x]).sum(), list(ours.parameters()), allow_unused=True)


@pytest.mark.parametrize('training', [False, True])
def test_a_batch_without_an_image_has_the_results_of_stock(case, training):
    *heads, x = case
    results = []
    for head in heads:
        head.train(training)
        empty = x[:0].clone().requires_grad_()
        out = head([empty])
        out.sum().backward()
        gradients = [empty.grad, *(p.grad for p in head.parameters())]
        results.append([out, *gradients, *head.buffers()])
        assert all(not gradient.any() for gradient in gradients)
    assert_close(results[1], results[0])


@pytest.mark.skipif(VERSION == (2, 4), reason='torch 2.4 cannot compile torch.func.vmap of layers')
def test_compiled_vmap_has_the_results_of_stock():
    torch.manual_seed(0)
    stock, ours = (head.double().eval() for head in both_heads('psp'))
    x = torch.randn(2, 6, 9, 11, dtype=torch.float64)
    compiled = torch.compile(torch.func.vmap(lambda x: ours([x])), backend='aot_eager')
    assert_close(compiled(x[:, None])[:, 0], stock([x]))


def quantized_eagerly(head, x):
    from torch.ao.quantization import DeQuantStub, QuantStub, convert, get_default_qconfig, prepare

    network = nn.Sequential(QuantStub(), Network(head), DeQuantStub())
    network.qconfig = get_default_qconfig('x86')
    prepared = prepare(network)
    prepared(x)
    return convert(prepared)


@pytest.mark.filterwarnings('ignore')
@needs_quantized_kernels
@pytest.mark.parametrize('name', ['factorized', 'auxiliary'])
def test_eager_mode_quantization_has_the_results_of_stock(name):
    torch.manual_seed(0)
    heads = same_heads(*CASES[name])
    x, results = torch.randn(2, 6, 9, 11), []
    for head in heads:
        network = quantized_eagerly(head.eval(), x)
        assert not any(type(module).__mro__[1] is nn.Conv2d for module in network.modules())
        results.append(network(x))
    assert torch.equal(*results)


def quantized(head, x):
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    prepared = prepare_fx(Network(head), get_default_qconfig_mapping('x86'), (x,))
    prepared(x)
    return convert_fx(prepared)


@pytest.mark.filterwarnings('ignore')
@needs_quantized_kernels
def test_graph_mode_quantization_comes_as_near_as_that_of_stock(case):
    stock, ours, x = case
    truth = Network(stock)(x)
    errors = []
    for head in (stock, ours):
        network = quantized(copy.deepcopy(head).float(), x.float())
        assert 'quantize_per_tensor' in network.code
        errors.append((network(x.float()) - truth).norm() / truth.norm())
    assert errors[0] < 0.1
    assert errors[1] < max(1.5 * errors[0], 0.02)
