"""``custom_hooks=[dict(type='PretrainedBackboneHook', checkpoint=..., module='backbone')]``."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseModule
from mmengine.registry import HOOKS, WEIGHT_INITIALIZERS
from mmengine.runner import BaseLoop, Runner
from torch import nn

from ..compat.runner import starting
from ..utils.distributed import unwrapped
from .errors import PretrainedWeightsError
from .initializer import SAMPLES, PretrainedBackbone
from .settings import LoadSettings


@HOOKS.register_module()
class PretrainedBackboneHook(Hook):
    """Gives a part of the model pretrained weights without a change to the model's config.

    It does not load by itself: before the run it hands its settings to the part's ``init_cfg``.
    The runner initializes at its own moment, and a checkpoint that is resumed or loaded wins.

    Args:
        checkpoint: a path or a reference such as ``torchvision://resnet50``.
        module: dotted name of the part, ``''`` for the whole model.
        **settings: the other fields of :class:`.settings.LoadSettings`.

    Raises:
        PretrainedWeightsError: a setting is unknown or has a wrong type or value.
    """

    def __init__(self, checkpoint: str = '', module: str = 'backbone', **settings: Any):
        # A mistake in the settings shows before the run is set up.
        LoadSettings.of(type(self).__name__, ('module',), checkpoint=checkpoint, **settings)
        self.module = module
        self.init_cfg = dict(type=PretrainedBackbone.__name__, checkpoint=checkpoint, **settings)
        self._done = False

    def before_run(self, runner: Runner) -> None:
        """Hand the settings to the module."""
        if self._done or not isinstance(runner._train_loop, BaseLoop):
            # Testing takes its weights from a checkpoint; a second training with the same runner
            # goes on from what the first has learnt.
            return
        target: Any
        ancestors, target = find_module(runner.model, self.module)
        self._done = True
        settings = dict(self.init_cfg)
        if settings.get('classes') == 'by_name' and not settings.get('class_names'):
            metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', {})
            settings['class_names'] = metainfo.get('classes')
        if _initialized_by_mmengine(ancestors, target):
            target.init_cfg, target.is_init = settings, False
        else:
            with starting(runner):
                WEIGHT_INITIALIZERS.build(settings)(target)
            target.is_init = True
            for ancestor in ancestors:  # whose weights this may have loaded over
                vars(ancestor).pop(SAMPLES, None)


def find_module(model: nn.Module, name: str) -> tuple[list[nn.Module], nn.Module]:
    """The modules on the way to ``name`` and the one it names; wrappers for several GPUs aside."""
    ancestors: list[nn.Module] = []
    module = unwrapped(model)
    for part in name.split('.') if name else ():
        ancestors.append(module)
        children = dict(module.named_children())
        if part not in children:
            raise PretrainedWeightsError(
                f'module={name!r}: {type(module).__name__} has no part {part!r}. '
                f'It has {", ".join(children) or "no parts"}.'
            )
        module = unwrapped(children[part])
    return ancestors, module


def _initialized_by_mmengine(ancestors: list[nn.Module], target: nn.Module) -> bool:
    """Whether Runner.train() will come to the init_cfg of ``target``.

    The class of ``target`` may read its init_cfg by itself, as some transformers do.
    """
    return getattr(type(target), 'init_weights', None) is BaseModule.init_weights and all(
        hasattr(a, 'init_weights') and not getattr(a, 'is_init', False) for a in ancestors
    )
