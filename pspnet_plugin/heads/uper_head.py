"""UPerNet's decode head: a feature pyramid whose coarsest map is PSPNet's pyramid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.models.decode_heads import UPerHead
from mmseg.registry import MODELS
from torch import Tensor

from .chunked_loss import ChunkedLossMixin
from .conv_module import convolve
from .convolutions import Pyramid, speed_up_convolutions, split_convolution, takes_pyramid
from .ppm import pooled_levels, pools_squares


@MODELS.register_module()
class FactorizedUPerHead(ChunkedLossMixin, UPerHead):
    """mmseg's ``UPerHead`` computed exactly, without the two concatenations.

    Same arguments, parameter names, outputs and gradients as ``UPerHead``; the same initial weights
    from the same seed. The stock arithmetic is used where a bottleneck is no plain convolution, by
    ``conv_cfg`` or replaced later, and where a pool, a level or a bottleneck was replaced or has
    hooks, which would see other calls than in stock.

    In training with batch norm, what the convolutions return is kept for the backward pass, less
    than half of what stock keeps; norms, activations and sums are computed again from it, see
    :func:`.convolve`.

    Args:
        pool_scales: bins per side of each pooling level.
        **kwargs: those of ``BaseDecodeHead``.
    """

    def __init__(self, pool_scales: Sequence[int] = (1, 2, 3, 6), **kwargs: Any) -> None:
        super().__init__(pool_scales=pool_scales, **kwargs)
        split_convolution(self.bottleneck)
        split_convolution(self.fpn_bottleneck)
        speed_up_convolutions(self)

    def psp_forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """From the feature maps to the coarsest map of the feature pyramid."""
        if not (takes_pyramid(self.bottleneck) and pools_squares(self.psp_modules)):
            return super().psp_forward(inputs)
        return self.bottleneck(pooled_levels(self.psp_modules, inputs[-1]))

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        """From the backbone's feature maps to the features to classify, (N, channels, H, W)."""
        if not takes_pyramid(self.fpn_bottleneck):
            return super()._forward_feature(inputs)
        inputs = self._transform_inputs(inputs)
        maps = [self.psp_forward(inputs)]
        above = maps[0]
        for i in reversed(range(len(self.lateral_convs))):
            above = convolve(self.lateral_convs[i], inputs[i], above, self.align_corners)
            maps.insert(0, convolve(self.fpn_convs[i], above))
        return convolve(self.fpn_bottleneck, Pyramid(tuple(maps), self.align_corners))
