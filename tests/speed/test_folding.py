"""Folded batch norms against the models they come from, ours and other people's."""

import pytest
import torch
import torchvision
from torch import nn

from pspnet_plugin import PspnetPluginError
from pspnet_plugin.speed.folding import FoldingError, fold_batch_norms


def run_on(*size):
    def run(model):
        generator = torch.Generator().manual_seed(0)
        like = next(model.parameters())
        return model(torch.randn(1, *size, generator=generator).to(like))

    return run


def with_random_statistics(model):
    generator = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_(0, 0.2, generator=generator)
            norm.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    return model.double().train()


@pytest.mark.parametrize(
    ('name', 'count'), [('resnet18', 20), ('mobilenet_v3_small', 34), ('shufflenet_v2_x0_5', 56)]
)
def test_folded_networks_of_torchvision_have_the_same_outputs(name, count):
    model = with_random_statistics(getattr(torchvision.models, name)(num_classes=7))
    folded, folds = fold_batch_norms(model, run_on(3, 64, 64))
    norms = [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    assert (folds, norms) == (count, [])
    image = torch.randn(2, 3, 96, 80).double()
    expected = model.eval()(image)
    torch.testing.assert_close(folded(image), expected, rtol=1e-9, atol=1e-9)


def test_original_keeps_its_mode_and_tensors_and_shares_what_is_not_folded():
    model = with_random_statistics(torchvision.models.resnet18(num_classes=7))
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


def test_convolution_that_changes_its_weight_is_an_error():
    model = nn.Sequential(StandardizedConv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(FoldingError, match='weight in a way of its own'):
        fold_batch_norms(with_random_statistics(model), run_on(3, 9, 9))
    assert issubclass(FoldingError, PspnetPluginError)


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
    image = torch.randn(2, 4, 12, 9).double()
    torch.testing.assert_close(folded(image), model.eval()(image), rtol=1e-9, atol=1e-9)
