"""The two segmentors of an export: mmseg's, to compare with, and the plugin's, to be written."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmseg.apis import init_model as stock_segmentor
from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder

from ...speed.examples import example_runs
from ...utils.text import first_cause, without_warnings_of_mmseg
from ..models.classes import class_info
from ..models.segmentor import build_segmentor, folded, last_head, load_weights, model_settings
from .settings import ExportError

STOCK = (EncoderDecoder.encode_decode, CascadeEncoderDecoder.encode_decode)


def load_segmentors(config: Config, checkpoint: str | Path) -> tuple[Any, Any]:
    """The segmentor as mmseg builds it, and the one that is exported, with the same weights.

    The second has factorized heads, and folded batch norms where possible: the same outputs up to
    rounding.

    Raises:
        ExportError: it cannot be built, or has a way of its own from images to logits.
        PredictionError: the checkpoint leaves weights random.
        PretrainedWeightsError: the checkpoint cannot be read.
    """
    stock_config = copy.deepcopy(config)
    stock_config.model = model_settings(config)
    try:
        with without_warnings_of_mmseg():
            reference = stock_segmentor(stock_config, None, device='cpu')
    except Exception as error:  # whatever mmseg raises for a model that it cannot build
        raise ExportError(f'MMSegmentation cannot build the model: {first_cause(error)}') from error
    if getattr(type(reference), 'encode_decode', None) not in STOCK:
        raise ExportError(
            f'{type(reference).__name__} has a way of its own from images to logits; EncoderDecoder'
            ' and CascadeEncoderDecoder can be exported.'
        )
    meta, _ = load_weights(reference, os.fspath(checkpoint))
    names = class_info(config, meta, last_head(reference).num_classes)
    reference.dataset_meta = dict(zip(('classes', 'palette'), names))
    exported: Any = revert_sync_batchnorm(build_segmentor(config))
    exported.load_state_dict(reference.state_dict())
    exported.eval()
    return reference, folded(exported, example_runs(exported))
