"""Existing configs, unchanged, run the plugin's way: same outputs, same checkpoints.

``custom_imports = dict(imports=['pspnet_plugin.accelerate'])`` makes ``PSPHead``, ``UPerHead``,
``EncoderDecoder`` and the other names in ``REPLACEMENTS`` mean the plugin's classes in a config,
and adds :class:`ChannelsLastHook`, :class:`FoldBatchNormHook` and :class:`KeepMemoryHook` to every
run. A class that a project registered by such a name stays. Predicted samples carry no
``seg_logits``; a config that needs them says ``model.test_cfg.seg_logits=True``.
"""

from __future__ import annotations

from mmengine.logging import print_log
from mmseg.registry import MODELS

from .compat import runner
from .replacements import REPLACEMENTS, means_stock
from .speed import ChannelsLastHook, FoldBatchNormHook, KeepMemoryHook

HOOKS = (ChannelsLastHook, FoldBatchNormHook, KeepMemoryHook)


def enable() -> None:
    """Make stock names build the plugin's classes from now on; called when this is imported."""
    for name, replacement in REPLACEMENTS.items():
        if means_stock(name):
            MODELS.register_module(name=name, module=replacement, force=True)
    runner.added_hooks += [hook for hook in HOOKS if hook not in runner.added_hooks]
    pairs = [pair for pair in REPLACEMENTS.items() if MODELS.get(pair[0]) is pair[1]]
    replaced = ', '.join(f'{name} by {cls.__name__}' for name, cls in pairs)
    added = ', '.join(hook.__name__ for hook in HOOKS)
    print_log(
        f'pspnet_plugin.accelerate replaces {replaced}; adds {added}. Away from CPUs a head keeps '
        "stock's arithmetic for maps that are too small to gain.",
        logger='current',
    )


enable()
