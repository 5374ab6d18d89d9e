"""From a config and a checkpoint to the segmentor, as it is and as it is exported."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict
from mmseg.apis import init_model
from mmseg.models.decode_heads import PSPHead
from mmseg.models.segmentors import CascadeEncoderDecoder, EncoderDecoder
from mmseg.registry import MODELS
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..heads import FactorizedPSPHead
from ..speed.folding import FoldingError, fold_batch_norms
from ..speed.trial import CopyError
from .errors import ExportError

# Height and width of the inputs on which a model is folded: 2 x 2 and 4 x 5 at stride 32.
EXAMPLE_SIZES = (64, 64), (128, 160)


def build_segmentor(config: Config, checkpoint: str | Path) -> Any:
    """The segmentor of ``config`` with the weights of ``checkpoint``, in evaluation mode.

    Raises:
        ExportError: it is no segmentor that classifies each pixel, or the checkpoint leaves
            weights of it random.
    """
    segmentor = init_model(copy.deepcopy(config), None, device='cpu')
    if type(segmentor).encode_decode not in (
        EncoderDecoder.encode_decode,
        CascadeEncoderDecoder.encode_decode,
    ):
        raise ExportError(
            f'{type(segmentor).__name__} has a way of its own from images to logits; EncoderDecoder'
            ' and CascadeEncoderDecoder can be exported.'
        )
    loaded = CheckpointLoader.load_checkpoint(str(checkpoint), map_location='cpu')
    load_weights(segmentor, loaded.get('state_dict', loaded), str(checkpoint))
    segmentor.dataset_meta = loaded.get('meta', {}).get('dataset_meta')
    return segmentor


def load_weights(segmentor: nn.Module, weights: dict[str, Any], name: str) -> None:
    """Load ``weights`` into all of ``segmentor`` but its auxiliary heads, which do not predict."""
    weights = {key[7:] if key.startswith('module.') else key: v for key, v in weights.items()}
    own = {k: v for k, v in segmentor.state_dict().items() if not is_unused(k)}
    wrong = [k for k, v in own.items() if k not in weights or weights[k].shape != v.shape]
    if wrong:
        raise ExportError(
            f'{name} is no checkpoint of this config: {len(wrong)} of {len(own)} tensors are '
            f'missing or have another shape, the first is {wrong[0]}.'
        )
    load_state_dict(segmentor, {k: weights[k] for k in own}, strict=False, logger='silent')


def is_unused(name: str) -> bool:
    """Whether a tensor has no part in prediction."""
    return name.startswith('auxiliary_head.') or name.endswith('.num_batches_tracked')


def faster_segmentor(config: Config, reference: Any) -> Any:
    """What is exported for ``reference``: factorized heads, and folded batch norms where possible.

    Returns:
        A segmentor with the tensors of ``reference`` and the same outputs up to rounding.
    """
    config = copy.deepcopy(config)
    for head in heads_of(config):
        if MODELS.get(head.type) is PSPHead if isinstance(head.type, str) else head.type is PSPHead:
            head.type = FactorizedPSPHead
    config.model.pop('auxiliary_head', None)
    segmentor = init_model(config, None, device='cpu')
    segmentor.load_state_dict(reference.state_dict(), strict=False)
    runs = [partial(run_example, size=size) for size in EXAMPLE_SIZES]
    try:
        return fold_batch_norms(segmentor, *runs)[0]
    except (FoldingError, CopyError, RuntimeError) as error:
        print_log(f'Exported with its batch norms as they are: {error}', logger='current')
        return segmentor


def heads_of(config: Config) -> list[Any]:
    """The configs of the decode heads; a cascade has several."""
    head = config.model.decode_head
    return [head] if isinstance(head, dict) else list(head)


def run_example(segmentor: Any, size: tuple[int, int]) -> object:
    """The logits of ``segmentor`` for noise of ``size``."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, input_channels(segmentor), *size, generator=generator)
    return segmentor(noise, mode='tensor')


def input_channels(segmentor: Any) -> int:
    """How many channels the images of ``segmentor`` have."""
    mean = getattr(segmentor.data_preprocessor, 'mean', None)
    if mean is not None and len(mean) > 1:  # one mean may serve any number of channels
        return len(mean)
    return next(m.in_channels for m in segmentor.modules() if isinstance(m, _ConvNd))
