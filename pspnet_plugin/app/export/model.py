"""From a config and a checkpoint to the segmentor, as mmseg builds it and as it is exported."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model import revert_sync_batchnorm
from mmseg.apis import init_model
from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder
from torch import nn

from ...speed.examples import example_runs
from ...speed.folding import fold_batch_norms
from ...utils.config_tree import dicts_within
from ...utils.text import without_warnings_of_mmseg
from ..models import segmentor as prediction
from ..models.classes import class_info
from .errors import ExportError, first_cause

STOCK = (EncoderDecoder.encode_decode, CascadeEncoderDecoder.encode_decode)


def reference_segmentor(config: Config, checkpoint: str | Path) -> Any:
    """The segmentor as mmseg builds it, with all weights of the checkpoint, to compare with.

    Raises:
        ExportError: it cannot be built, or has a way of its own from images to logits.
        PredictionError: the checkpoint leaves weights random.
        PretrainedWeightsError: the checkpoint cannot be read.
    """
    config = copy.deepcopy(config)
    config.model.pop('auxiliary_head', None)
    for node in dicts_within(config.model):
        if node.get('type') == 'TIMMBackbone':
            node['pretrained'] = False  # timm would download while it is built
    try:
        with without_warnings_of_mmseg():
            segmentor = init_model(config, None, device='cpu')
    except Exception as error:  # whatever mmseg raises for a model that it cannot build
        raise ExportError(f'MMSegmentation cannot build the model: {first_cause(error)}') from error
    if getattr(type(segmentor), 'encode_decode', None) not in STOCK:
        raise ExportError(
            f'{type(segmentor).__name__} has a way of its own from images to logits; EncoderDecoder'
            ' and CascadeEncoderDecoder can be exported.'
        )
    meta, _ = prediction.load_weights(segmentor, os.fspath(checkpoint))
    names = class_info(config, meta, prediction.last_head(segmentor).num_classes)
    segmentor.dataset_meta = dict(zip(('classes', 'palette'), names))
    return segmentor


def exported_segmentor(config: Config, reference: nn.Module) -> Any:
    """What is exported for ``reference``: factorized heads, and folded batch norms where possible.

    Returns:
        A segmentor with the tensors of ``reference`` and the same outputs up to rounding.
    """
    segmentor = revert_sync_batchnorm(prediction.build_segmentor(config))
    segmentor.load_state_dict(reference.state_dict())
    segmentor.eval()
    try:
        return fold_batch_norms(segmentor, *example_runs(segmentor))[0]
    except Exception as error:  # whatever it is, the network is exported without folding
        print_log(f'Batch norms are not folded: {error!r}', logger='current')
        return segmentor
