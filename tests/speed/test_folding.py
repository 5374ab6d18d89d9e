"""Folded batch norms against the models they come from, ours and other people's."""

import threading
import types

import pytest
import timm
import torch
import torchvision
from timm.layers import BatchNormAct2d
from torch import nn

from pspnet_plugin import PspnetPluginError
from pspnet_plugin.speed.folding import FoldingError, fold_batch_norms
from pspnet_plugin.speed.trial import CopyError
from tests.helpers.networks import randomized


def run_on(*size):
    def run(model):
        generator = torch.Generator().manual_seed(0)
        like = next(model.parameters())
        return model(torch.randn(1, *size, generator=generator).to(like))

    return run


def in_training(model):
    return randomized(model).double().train()


def require_same(folded, model, image):
    torch.testing.assert_close(folded(image), model.eval()(image), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ('name', 'count'), [('resnet18', 20), ('mobilenet_v3_small', 34), ('shufflenet_v2_x0_5', 56)]
)
def test_folded_networks_of_torchvision_have_the_same_outputs(name, count):
    model = in_training(getattr(torchvision.models, name)(num_classes=7))
    folded, folds = fold_batch_norms(model, run_on(3, 64, 64))
    norms = [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert (folds, norms) == (count, [])
    require_same(folded, model, torch.randn(2, 3, 96, 80).double())


def test_original_keeps_its_mode_and_tensors_and_shares_what_is_not_folded():
    model = in_training(torchvision.models.resnet18(num_classes=7))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded, _ = fold_batch_norms(model, run_on(3, 64, 64))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(module.training for module in model.modules())
    assert folded.fc.weight is model.fc.weight
    assert folded.conv1.weight is not model.conv1.weight


class PreActivation(nn.Module):
    """Batch norm is registered behind the convolution, but runs before it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return self.conv(self.norm(x))


class Branches(PreActivation):
    """The convolution's output is also used without the norm."""

    def forward(self, x):
        x = self.conv(x)
        return self.norm(x) + x


class Shared(PreActivation):
    """One convolution, two calls, only one of them before the norm."""

    def forward(self, x):
        return self.norm(self.conv(x)), self.conv(-x)


class BatchStatistics(PreActivation):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x):
        return self.norm(self.conv(x))


@pytest.mark.parametrize('network', [PreActivation, Branches, Shared, BatchStatistics])
def test_batch_norms_that_do_not_simply_follow_a_convolution_stay(network):
    model = network().double()
    folded, count = fold_batch_norms(model, run_on(3, 9, 9))
    assert count == 0
    assert isinstance(folded.norm, nn.BatchNorm2d)


class StandardizedConv2d(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight / weight.square().sum((1, 2, 3), True), bias)


class ShiftedBatchNorm2d(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) + 1e-3


class AlwaysTraining(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(True)


def replaced_forward():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model[1].forward = types.MethodType(
        lambda self, x: nn.BatchNorm2d.forward(self, x) * 2, model[1]
    )
    return model


@pytest.mark.parametrize(
    'model',
    [
        nn.Sequential(StandardizedConv2d(3, 4, 3), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3), ShiftedBatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 3), AlwaysTraining(4)),
        replaced_forward(),
    ],
    ids=['convolution', 'norm', 'training', 'instance'],
)
def test_modules_with_a_forward_of_their_own_or_in_training_stay(model):
    folded, count = fold_batch_norms(in_training(model), run_on(3, 9, 9))
    assert count == 0
    assert type(folded[1]) is type(model[1])


def test_batch_norms_that_stay_in_training_are_not_folded_by_class_alone():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model[1].train = lambda mode=True: model[1]
    with pytest.raises(CopyError, match='1.train of the model was replaced'):
        fold_batch_norms(in_training(model), run_on(3, 9, 9))


class Regularized(PreActivation):
    """Reads the weight of its convolution again; what is behind it decides one channel."""

    def forward(self, x):
        return self.norm(self.conv(x)) + 2e-3 * self.conv.weight.abs().sum()


class OneLargeChannel(Regularized):
    def forward(self, x):
        y = super().forward(x)
        return torch.cat([y, torch.full_like(y[:, :1], 1e6)], 1)


@pytest.mark.parametrize('network', [Regularized, OneLargeChannel])
def test_other_outputs_of_one_channel_are_an_error(network):
    model = network()
    nn.init.constant_(model.norm.weight, 2)  # folded, the sum is twice as large: 0.5 % of an output
    with pytest.raises(FoldingError, match='channel 0 of its output differs by'):
        fold_batch_norms(model, run_on(3, 9, 9))
    assert issubclass(FoldingError, PspnetPluginError)


class ByHeight(PreActivation):
    """Higher maps are normed, and also used without the norm."""

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) if x.shape[2] < 16 else self.norm(y) + y


def test_batch_norm_whose_path_depends_on_the_size_stays():
    model = in_training(ByHeight())
    folded, count = fold_batch_norms(model, run_on(3, 9, 9), run_on(3, 20, 20))
    assert count == 0
    image = torch.randn(1, 3, 20, 9).double()
    torch.testing.assert_close(folded(image), model.eval()(image), rtol=0, atol=0)


class Unreadable(PreActivation):
    def forward(self, x):
        return str(self.norm(self.conv(x)))


def test_model_without_an_output_to_compare_is_an_error():
    with pytest.raises(FoldingError, match='no tensor'):
        fold_batch_norms(Unreadable().double(), run_on(3, 9, 9))


class Recorder:
    """A hook that cannot be copied."""

    def __init__(self):
        self.seen, self.lock = [], threading.Lock()

    def __call__(self, module, inputs, output):
        self.seen.append(output.clone())


def test_copy_calls_the_hooks_of_the_model_and_folds_nothing_that_they_look_at():
    model = in_training(
        nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 4, 3)),
            nn.BatchNorm2d(4),
            nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
            nn.Conv2d(4, 4, 1),
            nn.BatchNorm2d(4),
        )
    )
    recorders = [Recorder() for _ in range(3)]
    handles = [model[i].register_forward_hook(hook) for i, hook in zip((0, 2, 4), recorders)]
    folded, count = fold_batch_norms(model, run_on(3, 9, 9))
    assert count == 1
    assert not any(hook.seen for hook in recorders), 'a hook saw the example'
    assert [len(module._forward_hooks) for module in model] == [1, 0, 1, 0, 1]
    image = torch.randn(1, 3, 9, 9).double()
    folded(image)
    model.eval()(image)
    for hook in recorders:
        ours, theirs = hook.seen
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for handle in handles:
        handle.remove()
    folded(image)
    assert [len(hook.seen) for hook in recorders] == [2] * 3


@pytest.mark.parametrize('name', ['tf_efficientnet_lite0', 'densenet121'])
def test_norms_of_timm_with_an_activation_leave_it_behind(name):
    model = in_training(timm.create_model(name, num_classes=5))
    norms = [m for m in model.modules() if type(m) is BatchNormAct2d]
    folded, count = fold_batch_norms(model, run_on(3, 64, 64))
    left = [m for m in folded.modules() if type(m) is BatchNormAct2d]
    assert count == len(norms) - len(left)
    assert count > len(norms) / 3 if name == 'densenet121' else not left
    require_same(folded, model, torch.randn(2, 3, 96, 80).double())


def test_drop_of_a_norm_of_timm_is_kept():
    norm = BatchNormAct2d(4, drop_layer=nn.Dropout, act_layer=nn.Tanh)
    folded, _ = fold_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 3), norm), run_on(3, 9, 9))
    assert [type(module) for module in folded[1]] == [nn.Dropout, nn.Tanh]


def test_transposed_and_grouped_convolutions_without_affine_norms_fold():
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, groups=2, bias=False),
        nn.BatchNorm2d(8, affine=False),
        nn.ReLU(inplace=True),
        nn.ConvTranspose2d(8, 6, 3, stride=2),
        nn.BatchNorm2d(6),
    ).double()
    model[1].running_mean.normal_()
    model[4].running_var.uniform_(0.5, 2)
    folded, count = fold_batch_norms(model, run_on(4, 9, 9))
    assert count == 2
    require_same(folded, model, torch.randn(2, 4, 12, 9).double())
