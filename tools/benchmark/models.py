"""Networks from mmseg's own configs, stock or with some of the plugin's parts."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from types import SimpleNamespace
from typing import NamedTuple

import torch
from mmengine.config import Config, ConfigDict
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import Tensor

from pspnet_plugin.app.training.launch import stock_tools
from pspnet_plugin.replacements import REPLACEMENTS
from pspnet_plugin.segmentors import LabelMapEncoderDecoder
from pspnet_plugin.speed import ChannelsLastHook

from .inputs import training_batch
from .settings import Settings
from .timing import Step

# Of PSPNet-R50-d8 as it is published, which the width of every network is given by.
PUBLISHED_CHANNELS = 2048
CHANNELS_STEP = 64  # each network has whole numbers of channels at multiples of it


class Network(NamedTuple):
    """A network, and how many times as fast as stock all parts together have to make it."""

    title: str
    config: str
    training: float | None
    prediction: float


NETWORKS = {
    'pspnet_r50': Network(
        'PSPNet-R50-d8', 'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py', 1.45, 1.6
    ),
    'upernet_swin_t': Network(
        'UPerNet Swin-T',
        'swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
        None,
        1.5,
    ),
}

HEAD, LOSS, CHANNELS_LAST, STRIPS = 'heads', 'streamed loss', 'channels-last', 'strips'
KEPT_MEMORY = 'kept memory'


def cumulative(parts: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The rows of a table: ``stock`` without a part, then each part with all parts before it."""
    added = {f'+ {part}': parts[: place + 1] for place, part in enumerate(parts)}
    return {'stock': (), **added}


@cache
def with_stock_loss(head: type[BaseDecodeHead]) -> type[BaseDecodeHead]:
    """A head of the plugin's with stock's loss, to measure the two apart."""
    return type(f'{head.__name__}StockLoss', (head,), {'loss_by_feat': BaseDecodeHead.loss_by_feat})


def stock_config(settings: Settings) -> Config:
    """The stock config, with random weights and the settings' width, classes and crop."""
    name = NETWORKS[settings.model].config
    config = Config.fromfile(stock_tools().parent / 'configs' / name)
    model = config.model
    model.pretrained = model.backbone.init_cfg = None
    set_width(model, settings.channels)
    for head in (model.decode_head, model.auxiliary_head):
        head.num_classes = settings.classes
    model.data_preprocessor.size = settings.crop
    return config


def set_width(model: ConfigDict, channels: int) -> None:
    """Scale every layer as if the last feature map of a ResNet-50 had this many channels."""
    backbone, decode_head, auxiliary_head = model.backbone, model.decode_head, model.auxiliary_head
    if 'embed_dims' in backbone:  # a transformer, whose heads keep their number
        backbone.embed_dims = backbone.embed_dims * channels // PUBLISHED_CHANNELS
        maps = [backbone.embed_dims * 2**stage for stage in range(4)]
        decode_head.in_channels, auxiliary_head.in_channels = maps, maps[2]
    else:
        backbone.base_channels = backbone.stem_channels = channels // 32
        decode_head.in_channels, auxiliary_head.in_channels = channels, channels // 2
    decode_head.channels, auxiliary_head.channels = channels // 4, channels // 8


def build(
    settings: Settings, parts: Collection[str] = (), frozen_stages: int = -1
) -> EncoderDecoder:
    """The model with some of HEAD, LOSS, CHANNELS_LAST and STRIPS; the same weights each time."""
    register_all_modules()  # also makes mmseg the default scope, which the config relies on
    config = stock_config(settings).model
    config.backbone.frozen_stages = frozen_stages
    if HEAD in parts:
        for head in (config.decode_head, config.auxiliary_head):
            ours = REPLACEMENTS[head.type]
            head.type = ours if LOSS in parts else with_stock_loss(ours)
    if STRIPS in parts:
        config.type = LabelMapEncoderDecoder
        config.test_cfg.seg_logits = False
    torch.manual_seed(0)
    model = MODELS.build(config).to(settings.device)
    if CHANNELS_LAST in parts:
        ChannelsLastHook().before_train(SimpleNamespace(model=model))
    return model


def training_forward(model: EncoderDecoder, settings: Settings) -> Step:
    """The first half of mmengine's training step: from a batch of crops to the loss."""
    batch = training_batch(settings)
    model.train()
    call = settings.compiled(model.forward)

    def forward() -> Tensor:
        with settings.autocast():
            losses = call(**model.data_preprocessor(batch, True), mode='loss')
            return model.parse_losses(losses)[0]

    return forward


def training_step(model: EncoderDecoder, settings: Settings) -> Step:
    """mmengine's training step with the stock config's optimizer: forward, backward, update.

    In half precision the loss is not scaled; scaling would cost every variant the same.
    """
    forward = training_forward(model, settings)
    MMLogger.get_current_instance().setLevel('WARNING')  # else a line for each parameter's settings
    optim_wrapper = build_optim_wrapper(model, stock_config(settings).optim_wrapper)

    def step() -> None:
        optim_wrapper.update_params(forward())

    return step
