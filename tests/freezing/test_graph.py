"""A frozen prefix runs without a graph, and what rewrites graphs sees the transitions."""

from __future__ import annotations

import warnings

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.runner import activation_checkpointing
from torch._dynamo.backends.registry import lookup_backend
from torch.utils.checkpoint import checkpoint

from pspnet_plugin.freezing import LayerFreezeHook
from tests.helpers.freezing_runs import Net, StockNet, under, watch


def saved_shapes(net, x):
    shapes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: shapes.append(t.shape) or t, lambda t: t
    ):
        loss = net(x)['loss']
    return shapes, loss


def test_a_frozen_prefix_keeps_nothing_for_the_backward_pass(tmp_path):
    hook = LayerFreezeHook(freeze=['backbone.stages[:3]', 'backbone.stem'])
    runner, _ = watch(tmp_path, hook)
    x = torch.randn(2, 3, 9, 9)
    shapes, _ = saved_shapes(runner.model, x)
    alone, _ = saved_shapes(loss_of(runner.model.head), runner.model.backbone(x))
    assert shapes == alone
    assert len(saved_shapes(Net(), x)[0]) > len(shapes)


def loss_of(head):
    def loss(x):
        return {'loss': (head(x) - 1).square().mean()}

    return loss


@pytest.mark.parametrize('with_cp', [False, True])
def test_frozen_stages_save_and_give_what_the_stock_setting_does(tmp_path, with_cp):
    options, seed = {'out_indices': (3,), 'with_cp': with_cp}, {'randomness': {'seed': 0}}
    stock, _ = watch(tmp_path, model=StockNet(**options, frozen_stages=3), **seed)
    hook = LayerFreezeHook(freeze=['backbone.stages[:3]'])
    ours, _ = watch(tmp_path, hook, model=StockNet(**options), **seed)
    for name, tensor in stock.model.state_dict().items():
        assert torch.equal(ours.model.state_dict()[name], tensor), name
    x = torch.randn(2, 3, 9, 9)
    assert saved_shapes(ours.model, x)[0] == saved_shapes(stock.model, x)[0]


class Checkpointed(Net):
    """Recomputes its stages in the backward pass, as ``with_cp`` does."""

    def forward(self, x, mode='loss'):
        for part in (self.backbone.stem, self.backbone.layer1, self.backbone.layer2):
            # As OpenMMLab's backbones decide.
            x = checkpoint(part, x, use_reentrant=True) if x.requires_grad else part(x)
        out = self.head(self.backbone.layer3(x))
        return {'loss': (out - 1).square().mean()}


@pytest.mark.parametrize('by', ['the model', 'mmengine'])
def test_gradient_checkpointing_over_a_frozen_prefix_changes_nothing(tmp_path, by):
    schedule = [{'at': 2, 'unfreeze': ['backbone.layer2', 'backbone.layer3']}]
    parts, work_dir = [f'backbone.layer{n}' for n in (1, 2, 3)], str(tmp_path)
    checkpointing = {'cfg': {'activation_checkpointing': parts, 'work_dir': work_dir}}
    final = []
    for settings in ({}, {'model': Checkpointed()} if by == 'the model' else checkpointing):
        with warnings.catch_warnings():
            warnings.filterwarnings('error', message='None of the inputs have requires_grad')
            hook = LayerFreezeHook(freeze=['backbone'], schedule=schedule)
            runner, watched = watch(tmp_path, hook, max_iters=4, **settings)
        assert under('backbone.layer2', watched.changed[2])
        final.append(dict(runner.model.named_parameters()))
    assert all(torch.equal(final[0][name], final[1][name]) for name in final[0])
    # Runs without the hook keep mmengine's variant.
    assert activation_checkpointing.checkpoint is checkpoint


@pytest.mark.parametrize('backend', ['eager', 'aot_eager'])
def test_a_compiled_model_is_compiled_again_at_the_transition_only(tmp_path, backend):
    compiled = []
    torch._dynamo.reset()

    @torch._dynamo.register_backend(name=f'counting_{backend}')
    def counting(graph, inputs):
        compiled[-1] += 1
        return lookup_backend(backend)(graph, inputs)

    class Count(Hook):
        def before_train_iter(self, runner, batch_idx, data_batch=None):
            compiled.append(0)

    hook = LayerFreezeHook(
        freeze=['backbone'], schedule=[{'at': 3, 'unfreeze': 'backbone.layer3', 'lr_mult': 0.5}]
    )
    settings = {
        'cfg': {'compile': {'backend': f'counting_{backend}'}, 'work_dir': str(tmp_path)},
        'param_scheduler': [{'type': 'PolyLR', 'by_epoch': False, 'eta_min': 1e-3}],
    }
    _, watched = watch(tmp_path, hook, Count(), max_iters=6, **settings)
    trained = [under('backbone', watched.changed[t]) for t in range(6)]
    assert trained[2] == set()
    assert trained[3] == under('backbone.layer3', trained[3]) != set()
    assert compiled[3] > 0
    # The step after it once more: mmengine's count of steps is a constant of a first graph.
    assert compiled[2] == compiled[5] == 0
