"""Existing configs, unchanged, run the plugin's way: same outputs, same checkpoints.

``custom_imports = dict(imports=['pspnet_plugin.accelerate'])`` makes ``PSPHead``, ``FCNHead``,
``EncoderDecoder`` and ``SegTTAModel`` in a config mean the plugin's classes, and adds
:class:`ChannelsLastHook`, :class:`FoldBatchNormHook` and :class:`KeepMemoryHook` to every run.
Predicted samples carry no ``seg_logits``; a config that needs them says
``model.test_cfg.seg_logits=True``.
"""

from __future__ import annotations

from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.registry import MODELS

from .heads import FactorizedPSPHead, StreamedFCNHead
from .heads.segmentor import LabelMapEncoderDecoder, LogitsTTAModel
from .speed import ChannelsLastHook, FoldBatchNormHook, KeepMemoryHook


class AcceleratedEncoderDecoder(LabelMapEncoderDecoder):
    """Leaves out the full-size logits unless ``test_cfg`` asks for them."""

    keep_seg_logits = False


REPLACEMENTS = {
    'PSPHead': FactorizedPSPHead,
    'FCNHead': StreamedFCNHead,
    'EncoderDecoder': AcceleratedEncoderDecoder,
    'SegTTAModel': LogitsTTAModel,
}
HOOKS = (ChannelsLastHook, FoldBatchNormHook, KeepMemoryHook)

_register_stock_hooks = Runner.register_hooks


def _register_hooks(runner: Runner, default_hooks=None, custom_hooks=None) -> None:
    _register_stock_hooks(runner, default_hooks, custom_hooks)
    for hook in HOOKS:
        if not any(isinstance(registered, hook) for registered in runner.hooks):
            runner.register_hook(hook())


def enable() -> None:
    """Make stock names build the plugin's classes from now on; called when this is imported."""
    for name, replacement in REPLACEMENTS.items():
        MODELS.register_module(name=name, module=replacement, force=True)
    Runner.register_hooks = _register_hooks
    replaced = ', '.join(f'{name} by {cls.__name__}' for name, cls in REPLACEMENTS.items())
    added = ', '.join(hook.__name__ for hook in HOOKS)
    print_log(f'pspnet_plugin.accelerate replaces {replaced}; adds {added}.', logger='current')


enable()
