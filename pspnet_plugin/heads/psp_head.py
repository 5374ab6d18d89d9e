"""The PSPNet decode heads: configuration and parameters; the arithmetic is pyramid's."""

from __future__ import annotations

from collections.abc import Sequence

from mmseg.models.decode_heads import PSPHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..ops.pyramid import conv2d_over_pyramid, pool_pyramid
from .loss_mixin import StreamedLossMixin


class PyramidConv2d(nn.Conv2d):
    """A convolution that also takes ``(x, *levels)``: x with the upsampled levels behind it.

    The levels are not upsampled for it, see :func:`.pyramid.conv2d_over_pyramid`. It holds the very
    parameters of the convolution it is made from, and is called like one, so whatever reads,
    freezes, folds or hooks a convolution finds one.
    """

    align_corners = False

    @staticmethod
    def can_replace(conv: nn.Module) -> bool:
        """Whether ``conv`` is a plain convolution that keeps the size of its map."""
        return (
            type(conv) is nn.Conv2d
            and all(k % 2 and p == k // 2 for k, p in zip(conv.kernel_size, conv.padding))
            and (conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), 1)
            and conv.padding_mode == 'zeros'
        )

    @classmethod
    def from_conv(cls, conv: nn.Conv2d, align_corners: bool = False) -> PyramidConv2d:
        """Make one that shares the parameters of ``conv``, without drawing a random number."""
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
        x, *levels = [input] if isinstance(input, Tensor) else input
        return conv2d_over_pyramid(x, levels, weight, bias, self.align_corners)


@MODELS.register_module()
class FactorizedPSPHead(StreamedLossMixin, PSPHead):
    """mmseg's ``PSPHead`` computed exactly, with half the arithmetic and without the concatenation.

    Same arguments, parameter names, outputs and gradients as ``PSPHead``; the same initial weights
    from the same seed. Where the bottleneck is not a plain convolution, because of ``conv_cfg`` or
    because it was replaced later, the stock arithmetic is used.

    Args:
        pool_scales: bins per side of each pooling level.
        **kwargs: those of ``BaseDecodeHead``.
    """

    def __init__(self, pool_scales: Sequence[int] = (1, 2, 3, 6), **kwargs):
        super().__init__(pool_scales=pool_scales, **kwargs)
        square = pool_scales and all(isinstance(bins, int) for bins in pool_scales)
        if square and PyramidConv2d.can_replace(self.bottleneck.conv):
            conv = PyramidConv2d.from_conv(self.bottleneck.conv, self.align_corners)
            self.bottleneck.conv = conv

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """From the backbone's maps to the features that are classified: (N, channels, H, W)."""
        if not isinstance(self.bottleneck.conv, PyramidConv2d):
            return super()._forward_feature(inputs)
        x = self._transform_inputs(inputs)
        pooled = pool_pyramid(x, self.pool_scales)
        levels = [conv(bins) for (_, conv), bins in zip(self.psp_modules, pooled)]
        return self.bottleneck((x, *levels))


@MODELS.register_module()
class PlainPSPHead(StreamedLossMixin, BaseDecodeHead):
    """The pyramid as tutorials write it: no norm, no activation, no bottleneck.

    Each level is average-pooled, convolved 1 x 1 with bias to ``in_channels // len(pool_scales)``
    channels and upsampled; one 1 x 1 convolution classifies x and the levels behind it.

    Args:
        in_channels: of x.
        pool_scales: bins per side of each pooling level.
        channels: follows from the others; a value is accepted, so that the config of a ``PSPHead``
            can be kept, and has no effect. The same holds for ``norm_cfg`` and ``act_cfg``.
        dropout_ratio: of whole channels, before the last convolution.
        **kwargs: those of ``BaseDecodeHead``.
    """

    def __init__(
        self,
        in_channels: int,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        channels: int | None = None,
        dropout_ratio: float = 0,
        **kwargs,
    ):
        width = in_channels // len(pool_scales)
        channels = in_channels + len(pool_scales) * width
        super().__init__(in_channels, channels, dropout_ratio=dropout_ratio, **kwargs)
        self.pool_scales = pool_scales
        self.psp_modules = nn.ModuleList(nn.Conv2d(in_channels, width, 1) for _ in pool_scales)
        self.conv_seg = PyramidConv2d.from_conv(self.conv_seg, self.align_corners)

    def _forward_feature(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The map (N, in_channels, H, W) and its levels (N, width, b, b), not upsampled."""
        x = self._transform_inputs(inputs)
        pooled = pool_pyramid(x, self.pool_scales)
        return (x, *(conv(bins) for conv, bins in zip(self.psp_modules, pooled)))

    def cls_seg(self, feat: Sequence[Tensor]) -> Tensor:
        """Classify each pixel: (N, out_channels, H, W)."""
        if (
            self.dropout is not None
        ):  # drops whole channels, so it may as well come before upsampling
            feat = [self.dropout(part) for part in feat]
        return self.conv_seg(tuple(feat))

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """From the backbone's maps to logits (N, out_channels, H, W)."""
        return self.cls_seg(self._forward_feature(inputs))
