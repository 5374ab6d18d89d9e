"""The PSPNet of the semseg project as its published key list and the paper describe it.

Written for these tests; the key list in ``data/`` says that names and shapes are those of the
published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models.resnet import Bottleneck, conv1x1

BINS = (1, 2, 3, 6)


def _conv_bn(inputs: int, outputs: int, **options) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, bias=False, **options), nn.BatchNorm2d(outputs), nn.ReLU()]


def _stage(inputs: int, width: int, blocks: int, stride: int, dilation: int) -> nn.Sequential:
    shortcut = nn.Sequential(conv1x1(inputs, width * 4, stride), nn.BatchNorm2d(width * 4))
    layers = [Bottleneck(inputs, width, stride, shortcut, dilation=dilation)]
    layers += [Bottleneck(width * 4, width, dilation=dilation) for _ in range(blocks - 1)]
    return nn.Sequential(*layers)


def _classifier(inputs: int, width: int, classes: int) -> nn.Sequential:
    convolution = _conv_bn(inputs, width, kernel_size=3, padding=1)
    return nn.Sequential(*convolution, nn.Dropout2d(0.1), nn.Conv2d(width, classes, 1))


class PyramidPooling(nn.Module):
    def __init__(self, inputs: int):
        super().__init__()
        width = inputs // len(BINS)
        self.features = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(bins), *_conv_bn(inputs, width, kernel_size=1))
            for bins in BINS
        )

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        pooled = [
            interpolate(level(x), size, mode='bilinear', align_corners=True)
            for level in self.features
        ]
        return torch.cat([x, *pooled], dim=1)


class SemsegPSPNet50(nn.Module):
    """Logits of the main and the auxiliary classifier at the resolution of the features."""

    def __init__(self, classes: int, width: int = 64):
        super().__init__()
        stem = _conv_bn(3, 64, kernel_size=3, stride=2, padding=1)
        stem += _conv_bn(64, 64, kernel_size=3, padding=1)
        stem += _conv_bn(64, 128, kernel_size=3, padding=1)
        self.layer0 = nn.Sequential(*stem, nn.MaxPool2d(3, 2, 1))
        self.layer1 = _stage(128, width, 3, stride=1, dilation=1)
        self.layer2 = _stage(4 * width, 2 * width, 4, stride=2, dilation=1)
        self.layer3 = _stage(8 * width, 4 * width, 6, stride=1, dilation=2)
        self.layer4 = _stage(16 * width, 8 * width, 3, stride=1, dilation=4)
        self.ppm = PyramidPooling(32 * width)
        self.cls = _classifier(64 * width, 8 * width, classes)
        self.aux = _classifier(16 * width, 4 * width, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        third = self.layer3(self.layer2(self.layer1(self.layer0(x))))
        return self.cls(self.ppm(self.layer4(third))), self.aux(third)
