"""PSPNet-R50-d8 from mmseg's own config, stock or with some of the plugin's parts."""

from __future__ import annotations

from collections.abc import Collection
from types import SimpleNamespace

import torch
from mmengine.config import Config
from mmengine.hub import get_config
from mmengine.optim import OptimWrapper
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import Tensor, nn

from pspnet_plugin.heads import FactorizedPSPHead, StreamedFCNHead
from pspnet_plugin.segmentors import LabelMapEncoderDecoder
from pspnet_plugin.speed import ChannelsLastHook

from .loss import random_samples
from .measuring import Step
from .settings import Settings

STOCK_CONFIG = 'mmseg::pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'
# The last feature map of a ResNet-50 has 32 times the channels of its stem, and those are even.
STEM_FACTOR = 32
CHANNELS_STEP = 2 * STEM_FACTOR

HEAD, LOSS, CHANNELS_LAST, STRIPS = 'heads', 'streamed loss', 'channels-last', 'strips'
KEPT_MEMORY = 'kept memory'


class FactorizedHeadStockLoss(FactorizedPSPHead):
    """What the factorized head gives without the streamed loss."""

    loss_by_feat = BaseDecodeHead.loss_by_feat


class FCNHeadStockLoss(StreamedFCNHead):
    """What the auxiliary head gives without the streamed loss."""

    loss_by_feat = BaseDecodeHead.loss_by_feat


def stock_config(settings: Settings) -> Config:
    """The stock config, with random weights and the settings' widths, classes and crop."""
    config = get_config(STOCK_CONFIG)
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
    register_all_modules()  # Names in the config are mmseg's from here on.
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
        to_channels_last(model)
    return model


def to_channels_last(model: nn.Module) -> None:
    """Do what the plugin's hook does at the start of a run."""
    ChannelsLastHook().before_train(SimpleNamespace(model=model))


def training_forward(model: EncoderDecoder, settings: Settings) -> Step:
    """The first half of mmengine's training step: from a batch of crops to the loss."""
    generator = torch.Generator().manual_seed(0)
    shape = (3, *settings.crop)
    batch = {
        'inputs': [
            torch.randint(256, shape, dtype=torch.uint8, generator=generator)
            for _ in range(settings.batch)
        ],
        'data_samples': random_samples(settings, generator),
    }
    model.train()
    call = settings.compiled(model.forward)

    def forward() -> Tensor:
        with settings.autocast():
            losses = call(**model.data_preprocessor(batch, True), mode='loss')
            return model.parse_losses(losses)[0]

    return forward


def training_step(model: EncoderDecoder, settings: Settings) -> Step:
    """mmengine's training step with SGD, as the stock schedule has it: forward, backward, update.

    In half precision without the scaling of the loss, which is the same for every variant.
    """
    forward = training_forward(model, settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    optim_wrapper = OptimWrapper(optimizer)

    def step() -> None:
        optim_wrapper.update_params(forward())

    return step
