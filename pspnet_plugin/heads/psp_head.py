"""The PSPNet decode heads: configuration and parameters; the arithmetic is pyramid's."""

from __future__ import annotations

from mmseg.models.decode_heads import PSPHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from .pyramid import conv2d_over_pyramid, pool_pyramid


class PyramidConv2d(nn.Conv2d):
    """A convolution that also takes ``(x, *levels)`` for x with the upsampled levels behind it.

    It has the parameters of the ``nn.Conv2d`` it is made from, so whatever reads, freezes, folds or
    hooks a convolution finds one.
    """

    @classmethod
    def share(cls, conv: nn.Conv2d, align_corners: bool) -> PyramidConv2d:
        """Make one around the parameters of ``conv``."""
        shared = cls(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            padding=conv.padding,
            bias=conv.bias is not None,
            device='meta',
        )
        shared.weight, shared.bias = conv.weight, conv.bias
        shared.align_corners = align_corners
        return shared

    def _conv_forward(self, input, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(input, Tensor):
            return super()._conv_forward(input, weight, bias)
        x, *levels = input
        return conv2d_over_pyramid(x, levels, weight, bias, self.align_corners)


@MODELS.register_module()
class FactorizedPSPHead(PSPHead):
    """mmseg's ``PSPHead`` with half the arithmetic: same parameters, outputs and gradients."""

    def __init__(self, pool_scales=(1, 2, 3, 6), **kwargs):
        super().__init__(pool_scales=pool_scales, **kwargs)
        if type(self.bottleneck.conv) is nn.Conv2d:
            self.bottleneck.conv = PyramidConv2d.share(self.bottleneck.conv, self.align_corners)

    def _forward_feature(self, inputs: list[Tensor]) -> Tensor:
        if not isinstance(self.bottleneck.conv, PyramidConv2d):
            return super()._forward_feature(inputs)
        x = self._transform_inputs(inputs)
        pooled = pool_pyramid(x, self.pool_scales)
        levels = [conv(p) for (_, conv), p in zip(self.psp_modules, pooled)]
        return self.bottleneck((x, *levels))
