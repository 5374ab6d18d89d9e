"""``nn.Conv2d`` with faster arithmetic, and how a decode head gets it."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeVar

from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.fx import Proxy

from ..ops.conv2d import conv2d_same
from ..ops.pyramid import conv2d_over_pyramid
from ..ops.stacked_levels import concatenate_pyramid
from ..ops.tracing import is_transformed
from .modified_modules import is_hooked, runs_as_written

Made = TypeVar('Made', bound='SameConv2d')


class SameConv2d(nn.Conv2d):
    """A convolution that keeps the size of its map, on CPUs with fewer multiplications.

    It holds the very parameters of the convolution that it is made from, and is called like it, so
    whatever reads, freezes, folds or hooks a convolution finds one. See :func:`.conv2d_same`.
    """

    @staticmethod
    def can_replace(conv: nn.Module) -> bool:
        """Whether ``conv`` is a plain convolution that keeps the size of its map."""
        return type(conv) is nn.Conv2d and keeps_size(conv)

    @classmethod
    def from_conv(cls: type[Made], conv: nn.Conv2d) -> Made:
        """Make one that shares the parameters of ``conv``, without drawing a random number."""
        height, width = conv.kernel_size
        made = cls(
            conv.in_channels,
            conv.out_channels,
            (height, width),
            padding=(height // 2, width // 2),
            bias=conv.bias is not None,
            device='meta',
        )
        made.weight, made.bias = conv.weight, conv.bias
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        if name == 'qconfig' and value is not None:
            # Eager-mode quantization goes by the exact class, and leaves others in float.
            self.__class__ = nn.Conv2d  # type: ignore[assignment]
        nn.Conv2d.__setattr__(self, name, value)

    def forward(self, input: Any) -> Tensor:
        if isinstance(input, Proxy):  # torch.fx records a call of PyTorch's own convolution as one
            tracer: Any = input.tracer
            return tracer.create_proxy('call_module', tracer.path_of_module(self), (input,), {})
        return super().forward(input)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if is_transformed(input) or not keeps_size(self):
            return super()._conv_forward(input, weight, bias)
        return conv2d_same(input, weight, bias)


def keeps_size(conv: nn.Conv2d) -> bool:
    """Whether ``conv``, with its settings of this moment, pads with zeros and keeps the size."""
    return (
        all(k % 2 for k in conv.kernel_size)
        and conv.padding == tuple(k // 2 for k in conv.kernel_size)
        and (conv.stride, conv.dilation, conv.groups) == ((1, 1), (1, 1), 1)
        and conv.padding_mode == 'zeros'
    )


class Pyramid(NamedTuple):
    """What a convolution takes in place of a concatenation of upsampled maps."""

    maps: tuple[Tensor, ...]  # the first has the size to which the others are upsampled
    align_corners: bool  # of the upsampling


# init_cfg=dict(layer='Conv2d') finds a module by the name of its class or of a direct base.
class PyramidConv2d(SameConv2d, nn.Conv2d):
    """A convolution over a :class:`Pyramid`, or over a plain tensor, its concatenation.

    The levels come as they were pooled, not upsampled, see :func:`.conv2d_over_pyramid`.
    """

    def forward(self, input: Tensor | Pyramid) -> Tensor:
        if isinstance(input, Pyramid) and is_transformed(input.maps[0]):
            x, *levels = input.maps
            input = concatenate_pyramid(x, levels, input.align_corners)
        return super().forward(input)

    def _conv_forward(self, input: Tensor | Pyramid, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not isinstance(input, Pyramid):
            return super()._conv_forward(input, weight, bias)
        x, *levels = input.maps
        return conv2d_over_pyramid(x, levels, weight, bias, input.align_corners)


def split_convolution(module: ConvModule) -> None:
    """Let the convolution of ``module`` take a pyramid in place of its concatenation."""
    if PyramidConv2d.can_replace(module.conv):
        module.conv = PyramidConv2d.from_conv(module.conv)


def takes_pyramid(module: nn.Module) -> bool:
    """Whether ``module`` is as :func:`split_convolution` made it, and no hook sees its input."""
    return (
        runs_as_written(module, ConvModule)
        and isinstance(module.conv, PyramidConv2d)
        and may_take_pyramid(module.conv)
    )


def may_take_pyramid(conv: PyramidConv2d) -> bool:
    """Whether nobody sees that ``conv`` gets no tensor, and it still computes what it did."""
    patched = '_conv_forward' in conv.__dict__
    return keeps_size(conv) and not patched and not is_hooked(conv)


def speed_up_convolutions(head: BaseDecodeHead) -> None:
    """Compute the plain convolutions of ``head`` by :func:`.conv2d_same`."""
    for module in list(head.modules()):
        if isinstance(module, ConvModule) and SameConv2d.can_replace(module.conv):
            module.conv = SameConv2d.from_conv(module.conv)
    if SameConv2d.can_replace(head.conv_seg):
        head.conv_seg = SameConv2d.from_conv(head.conv_seg)
