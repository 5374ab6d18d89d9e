"""PSPNet-R50-d8 from mmseg's own config, stock or with some of the plugin's parts."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace

import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import Tensor

from pspnet_plugin.heads import FactorizedPSPHead, StreamedFCNHead
from pspnet_plugin.runs.launch import stock_tools
from pspnet_plugin.segmentors import LabelMapEncoderDecoder
from pspnet_plugin.speed import ChannelsLastHook

from .inputs import training_batch
from .settings import Settings
from .timing import Step

STOCK_CONFIG = 'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'
# The last feature map of a ResNet-50 has 32 times the channels of its stem, which must be even.
STEM_FACTOR = 32
CHANNELS_STEP = 2 * STEM_FACTOR

HEAD, LOSS, CHANNELS_LAST, STRIPS = 'heads', 'streamed loss', 'channels-last', 'strips'
KEPT_MEMORY = 'kept memory'


def cumulative(parts: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """The rows of a table: ``stock`` without a part, then each part with all parts before it."""
    added = {f'+ {part}': parts[: place + 1] for place, part in enumerate(parts)}
    return {'stock': (), **added}


class FactorizedHeadStockLoss(FactorizedPSPHead):
    """The factorized head with stock's loss, to measure the two apart."""

    loss_by_feat = BaseDecodeHead.loss_by_feat


class FCNHeadStockLoss(StreamedFCNHead):
    """The auxiliary head with stock's loss."""

    loss_by_feat = BaseDecodeHead.loss_by_feat


def stock_config(settings: Settings) -> Config:
    """The stock config, with random weights and the settings' widths, classes and crop."""
    config = Config.fromfile(stock_tools().parent / 'configs' / STOCK_CONFIG)
    model, channels = config.model, settings.channels
    stem = channels // STEM_FACTOR
    model.pretrained = None
    model.backbone.update(base_channels=stem, stem_channels=stem)
    model.decode_head.update(in_channels=channels, channels=channels // 4)
    model.auxiliary_head.update(in_channels=channels // 2, channels=channels // 8)
    for head in (model.decode_head, model.auxiliary_head):
        head.num_classes = settings.classes
    model.data_preprocessor.size = settings.crop
    return config


def build(
    settings: Settings, parts: Collection[str] = (), frozen_stages: int = -1
) -> EncoderDecoder:
    """The model with some of HEAD, LOSS, CHANNELS_LAST and STRIPS; the same weights each time."""
    register_all_modules()  # also makes mmseg the default scope, which the config relies on
    config = stock_config(settings).model
    config.backbone.frozen_stages = frozen_stages
    if HEAD in parts:
        config.decode_head.type = FactorizedPSPHead if LOSS in parts else FactorizedHeadStockLoss
        config.auxiliary_head.type = StreamedFCNHead if LOSS in parts else FCNHeadStockLoss
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
    """mmengine's training step with SGD, as the stock schedule has it: forward, backward, update.

    In half precision the loss is not scaled; scaling would cost every variant the same.
    """
    forward = training_forward(model, settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    optim_wrapper = OptimWrapper(optimizer)

    def step() -> None:
        optim_wrapper.update_params(forward())

    return step
