"""What a program that knows only the exported file needs to know, as texts to put into it."""

from __future__ import annotations

import json
from typing import Any

from mmengine.config import Config

from ...speed.examples import input_channels
from ...utils.config_tree import dicts_within
from ..models.segmentor import last_head
from .images import test_steps
from .settings import ExportSettings


def metadata(
    config: Config, segmentor: Any, settings: ExportSettings, dtype: str
) -> dict[str, str]:
    """Keys and values, each value in JSON.

    ``classes``: names; ``palette``: a colour (red, green, blue) for each; ``input``: what has to be
    done with an image before the file gets it; ``output``: what the file gives.
    """
    content = {
        **segmentor.dataset_meta,
        'input': {'dtype': dtype, **input_description(config, segmentor, settings)},
        'output': {
            'kind': settings.output,
            'align_corners': segmentor.align_corners,
            'threshold': last_head(segmentor).threshold,
        },
        'precision': 'int8' if settings.int8 else settings.dtype,
    }
    return {key: json.dumps(value) for key, value in content.items()}


def swaps_channels(preprocessor: Any) -> bool:
    """Whether BGR becomes RGB; mmseg and its fork have different names for it."""
    name = 'channel_conversion'
    return getattr(preprocessor, name if hasattr(preprocessor, name) else f'_{name}')


def input_description(config: Config, segmentor: Any, settings: ExportSettings) -> dict[str, Any]:
    """What has to be done with an image, in this order.

    ``resize`` as the config's test pipeline (``scale`` is width, height); ``channel_order``
    of three channels; ``mean`` is subtracted and ``std`` divided by, where they are not null; sides
    are padded to multiples of ``size_divisor``. ``window`` is the crop, and its stride, that the
    config predicts in: the file predicts whole images, as large as they come.
    """
    preprocessor = segmentor.data_preprocessor
    order = 'RGB' if swaps_channels(preprocessor) and not settings.normalize else 'BGR'
    steps = [s for s in dicts_within(test_steps(config)) if s.get('type') == 'Resize']
    windows = (segmentor.test_cfg or {}).get('mode') == 'slide'
    return {
        'layout': 'NCHW',
        'resize': [{k: v for k, v in step.items() if k != 'type'} for step in steps],
        'channel_order': order if input_channels(segmentor) == 3 else None,
        'mean': None if settings.normalize else numbers(preprocessor, 'mean'),
        'std': None if settings.normalize else numbers(preprocessor, 'std'),
        'size_divisor': size_divisor(segmentor),
        'size': settings.size,
        'window': {k: segmentor.test_cfg[k] for k in ('crop_size', 'stride')} if windows else None,
    }


def numbers(preprocessor: Any, name: str) -> list[float] | None:
    """One number for each channel, or None where the preprocessor does not normalize."""
    values = getattr(preprocessor, name, None)
    if values is None:
        return None
    return [float(f'{value:.7g}') for value in values.flatten().tolist()]  # float32 has 7 digits


def size_divisor(segmentor: Any) -> int:
    """Sides of test images are padded to multiples of it."""
    return (segmentor.data_preprocessor.test_cfg or {}).get('size_divisor') or 1
