"""Settings of a config that do not fit each other, found before anything is built."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import HOOKS
from mmseg.evaluation import IoUMetric
from mmseg.models.decode_heads import ASPPHead, PSPHead, UPerHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.losses import CrossEntropyLoss, DiceLoss, TverskyLoss
from mmseg.models.losses.utils import get_class_weight
from mmseg.registry import METRICS, MODELS

from ...heads.chunked_loss import ChunkedLossMixin
from ...utils.config_tree import dicts_within, kind_of
from ...utils.datasets import datasets_of, metainfo_of, registered, scope_of
from ...utils.text import did_you_mean, one_line, shortened
from ...validation import ClassIoUMetric, ValidationLossHook
from .datasets import LOADERS

# The losses that may have a softmax, and whether they take the sigmoid by themselves.
SIGMOID = {CrossEntropyLoss: False, DiceLoss: True, TverskyLoss: False}
# What IoUMetric gives for each of its ``iou_metrics``, besides aAcc.
GIVEN = {
    'mIoU': ('mIoU', 'mAcc'),
    'mDice': ('mDice', 'mAcc'),
    'mFscore': ('mFscore', 'mPrecision', 'mRecall'),
}
KNOWN = 'mmengine', 'mmseg', 'pspnet_plugin'  # packages whose hooks give no other metrics
NEED_WORKERS = 'persistent_workers', 'prefetch_factor', 'timeout'


def setting_problems(cfg: Config, loaders: Sequence[str] = LOADERS) -> list[str]:
    """A line for each pair of settings that contradict each other, of those that a run reads."""
    problems = [*class_problems(cfg, loaders), *order_problems(cfg, loaders)]
    problems += [*loader_problems(cfg, loaders), *prediction_problems(cfg)]
    if LOADERS[0] in loaders:
        problems += [*loss_problems(cfg), *length_problems(cfg), *batch_problems(cfg)]
        problems += best_problems(cfg)
    return [*problems, *ignored_problems(cfg, loaders)]


def class_problems(cfg: Config, loaders: Sequence[str]) -> Iterator[str]:
    """Where the heads, the datasets and ``CheckLabels`` have not the same number of classes."""
    heads = {name: head['num_classes'] for name, head in usual_heads(cfg)}
    for loader, dataset in datasets_of(cfg, loaders):
        names = metainfo_of(dataset, scope_of(cfg)).get('classes')
        for head, count in heads.items():
            if names is not None and len(names) != count:
                yield (
                    f'{head}.num_classes is {count}, but the dataset of {loader} has '
                    f'{len(names)} classes: {", ".join(map(str, names[:8]))}'
                )
        for step in dicts_within(dataset.get('pipeline')):
            wanted = next(iter(heads.values()), step.get('num_classes'))
            if step.get('type') == 'CheckLabels' and step['num_classes'] != wanted:
                yield (
                    f'CheckLabels in {loader} has num_classes={step["num_classes"]}, but the '
                    f'model {wanted}'
                )


def order_problems(
    cfg: Config, loaders: Sequence[str], trained: Sequence[str] = ()
) -> Iterator[str]:
    """Datasets with the classes of the training images in another order: their labels mean others.

    Other names may be other words for the same, which nobody but the user knows.

    Args:
        trained: the classes as a checkpoint tells them, in place of the training images.
    """
    orders = {frozenset(trained): list(trained)}
    read = loaders if trained else dict.fromkeys((LOADERS[0], *loaders))
    for loader, dataset in datasets_of(cfg, read):
        names = list(map(str, metainfo_of(dataset, scope_of(cfg)).get('classes') or ()))
        first = orders.setdefault(frozenset(names), names)
        if len(first) == len(names) and first != names:
            yield (
                f'{loader} has the classes {", ".join(names[:8])}, but training the same in the '
                f'order {", ".join(first[:8])}, so that a label means another class'
            )


def usual_heads(cfg: Config) -> Iterator[tuple[str, dict]]:
    """The decode heads by their names in the config.

    Heads with a loss of their own, such as the one for the borders of objects in STDC, may mean
    something else by their classes and are left out.
    """
    usual = BaseDecodeHead.loss_by_feat, ChunkedLossMixin.loss_by_feat
    for name in ('decode_head', 'auxiliary_head'):
        heads = cfg.model.get(name) or []
        for number, head in enumerate([heads] if isinstance(heads, dict) else heads):
            kind = registered(head.get('type'), MODELS, scope_of(cfg))
            if 'num_classes' in head and getattr(kind, 'loss_by_feat', None) in usual:
                label = name if isinstance(heads, dict) else f'{name}[{number}]'
                yield f'model.{label}', head


def loss_problems(cfg: Config) -> Iterator[str]:
    """Losses that do not fit the outputs of their head."""
    for name, head in usual_heads(cfg):
        outputs = head.get('out_channels') or head['num_classes']
        losses = head.get('loss_decode') or dict(type='CrossEntropyLoss')
        for loss in [losses] if isinstance(losses, dict) else losses:
            kind = registered(loss.get('type'), MODELS, scope_of(cfg))
            if str(getattr(kind, '__module__', '')).startswith('mmseg.'):
                yield from weight_problems(f'{name}.loss_decode', loss, outputs, kind)
            if 'loss' not in loss.get('loss_name', 'loss'):
                yield (
                    f'{name}: loss_name {loss["loss_name"]!r} is without "loss" in it, and such a '
                    f'loss is left out of what is trained: call it loss_{loss["loss_name"]}'
                )
            if kind is DiceLoss and head.get('sampler'):
                yield (
                    f'{name} has a sampler of pixels beside DiceLoss, which takes no weights of '
                    'pixels: leave one of them out'
                )
            has_softmax = not loss.get('use_sigmoid', SIGMOID.get(kind, True))
            if outputs > 1 or not has_softmax:
                continue
            if head['num_classes'] == 1:
                yield (
                    f'{name} has one class, so its softmax is 1 everywhere, the loss 0, and '
                    'nothing is learnt: set num_classes=2, with the background as a class'
                )
            else:
                yield (
                    f'{name}.out_channels is 1, of which {kind.__name__} makes a softmax; it needs '
                    'a CrossEntropyLoss with use_sigmoid=True: set it, or leave out_channels out'
                )


def weight_problems(name: str, loss: dict, outputs: int, kind: Any) -> Iterator[str]:
    """Class weights that are not one for each class, or that are none of classes."""
    try:
        weights = get_class_weight(loss.get('class_weight'))  # which may stand in a file
    except Exception as error:  # whatever reading it raises
        yield f'{name}.class_weight={loss["class_weight"]!r} cannot be read: {one_line(error)}'
        return
    if not hasattr(weights, '__len__'):
        return
    if not (min(weights, default=1) >= 0 and max(weights, default=1) > 0):  # NaN is neither
        yield f'{name}.class_weight={weights} is below 0, or 0 for all: nothing would be learnt'
    if len(weights) != outputs:
        yield (
            f'{name}.class_weight has {len(weights)} values, but the head has {outputs} outputs: '
            'give one for each class, or None'
        )
    elif kind is CrossEntropyLoss and loss.get('use_sigmoid') and outputs > 1:
        yield (
            f'{name} has class_weight beside use_sigmoid=True, which MMSegmentation takes for '
            'weights of the columns of an image: leave one of them out'
        )


def loader_problems(cfg: Config, loaders: Sequence[str]) -> Iterator[str]:
    """What PyTorch's data loaders refuse without workers, and samplers that find no end."""
    for loader in loaders:
        settings = cfg.get(loader) or {}
        ends = loader != LOADERS[0] or 'max_epochs' in (cfg.get('train_cfg') or {})
        if ends and kind_of(settings.get('sampler') or {'type': ''}) == 'InfiniteSampler':
            yield (
                f'{loader}.sampler is an InfiniteSampler, with which its epoch never ends: use '
                'DefaultSampler, or count iterations (IterBasedTrainLoop, max_iters)'
            )
        for name in NEED_WORKERS if not settings.get('num_workers') else ():
            if settings.get(name):
                yield (
                    f'{loader}.num_workers is 0, but {name} is {settings[name]}, which needs '
                    f'workers: leave {name} out, or set num_workers'
                )


def length_problems(cfg: Config) -> Iterator[str]:
    """Runs without an iteration, and what waits for the end of an epoch where there is but one."""
    ends = {
        'max_iters': 'nothing would be trained',
        'max_epochs': 'nothing would be trained',
        'val_interval': 'set a number from 1 on; one above the end of the training never validates',
    }
    for name, told in ends.items():
        length = (cfg.get('train_cfg') or {}).get(name, 1)
        if not isinstance(length, (int, float)) or length < 1:
            yield f'train_cfg.{name} is {length!r}: {told}'
    if 'max_iters' not in (cfg.get('train_cfg') or {}):
        return
    hooks = (cfg.get('default_hooks') or {}).values()
    parts = [part for part in dicts_within(cfg.get('param_scheduler')) if 'type' in part]
    parts += [hook for hook in hooks if hook and kind_of(hook) == 'CheckpointHook']
    for part in parts:
        is_asked = part.get('convert_to_iter_based') or 'Plateau' in kind_of(part)
        if part.get('by_epoch', True) and not is_asked:
            yield (
                f'{kind_of(part)} counts epochs, but train_cfg iterations, so that it does nothing '
                'before the end: set by_epoch=False'
            )


def prediction_problems(cfg: Config) -> Iterator[str]:
    """What would stop the first validation, after all that was trained until then."""
    test_cfg = cfg.model.get('test_cfg') or {}
    if test_cfg.get('mode') == 'slide':
        stride, crop = test_cfg['stride'], test_cfg['crop_size']
        if any(step > side for step, side in zip(stride, crop)):
            yield (
                f'model.test_cfg has a stride of {tuple(stride)} between windows of {tuple(crop)}, '
                'which leaves gaps: set a smaller one, such as two thirds'
            )
    for name in ('val_evaluator', 'test_evaluator'):
        for metric in dicts_within(cfg.get(name)):
            unknown = set(metric.get('iou_metrics') or ()) - GIVEN.keys()
            if unknown:
                yield f'{name}.iou_metrics has {unknown.pop()!r}: mIoU, mDice and mFscore are known'


def best_problems(cfg: Config) -> Iterator[str]:
    """A ``save_best`` that no validation gives; nothing where unknown metrics or hooks may."""
    scope = scope_of(cfg)
    given: set[str] = set()
    for metric in dicts_within(cfg.get('val_evaluator')):
        kind = registered(metric.get('type'), METRICS, scope)
        if kind not in (IoUMetric, ClassIoUMetric):
            return
        names = {'aAcc'}.union(*(GIVEN.get(one, ()) for one in metric.get('iou_metrics', ['mIoU'])))
        for _, dataset in datasets_of(cfg, ['val_dataloader'] if kind is ClassIoUMetric else []):
            names |= {f'IoU/{one}' for one in metainfo_of(dataset, scope).get('classes') or ()}
        prefix = f'{metric["prefix"]}/' if metric.get('prefix') else ''
        given |= {f'{prefix}{name}' for name in names}
    default_hooks = [hook for hook in (cfg.get('default_hooks') or {}).values() if hook]
    for hook in [*default_hooks, *(cfg.get('custom_hooks') or ())]:
        kind = registered(hook.get('type'), HOOKS, scope) if isinstance(hook, dict) else type(hook)
        if kind is ValidationLossHook:
            given.add('val_loss')
        elif str(getattr(kind, '__module__', '')).partition('.')[0] not in KNOWN:
            return
    for hook in default_hooks:
        wanted = hook.get('save_best') or []
        for name in {wanted} if isinstance(wanted, str) else wanted:
            if given and name not in {'auto', *given}:
                means_first = sorted(given, key=lambda one: ('IoU/' in one, one))
                yield (
                    f'save_best={name!r} is none of what a validation gives: '
                    f'{shortened(means_first, 6)}.{did_you_mean(name, given)}'
                )


def batch_problems(cfg: Config) -> Iterator[str]:
    """Batches of one image where a head normalizes what it has pooled to a single value."""
    if (cfg.get(LOADERS[0]) or {}).get('batch_size') != 1:
        return
    for name, head in usual_heads(cfg):
        kind = registered(head.get('type'), MODELS, scope_of(cfg))
        norm = kind_of(head['norm_cfg']) if head.get('norm_cfg') else ''
        shared = norm.endswith('SyncBN') and cfg.get('launcher') != 'none'  # if it is known yet
        pools = issubclass(kind, ASPPHead) or (
            issubclass(kind, (PSPHead, UPerHead)) and 1 in head.get('pool_scales', (1,))
        )
        if pools and 'BN' in norm and not shared:
            yield (
                f'{LOADERS[0]}.batch_size is 1, but {name} pools an image to one value, of which '
                'batch norm has no variance: set 2 or more, or another norm, such as '
                "norm_cfg=dict(type='GN', num_groups=32)"
            )


def ignored_problems(cfg: Config, loaders: Sequence[str]) -> Iterator[str]:
    """Where one part of a config ignores another value of the labels than the next."""
    heads = dict(usual_heads(cfg))
    values = {f'{name}.ignore_index': head.get('ignore_index', 255) for name, head in heads.items()}
    preprocessor = cfg.model.get('data_preprocessor') or {}
    if LOADERS[0] in loaders and (preprocessor.get('size') or preprocessor.get('size_divisor')):
        values['seg_pad_val of the data_preprocessor'] = preprocessor.get('seg_pad_val', 255)
    for loader, dataset in datasets_of(cfg, loaders):
        for step in dicts_within(dataset.get('pipeline')):
            if step.get('type') == 'CheckLabels':
                values[f'CheckLabels in {loader}'] = step.get('ignore_index', 255)
    for name in ('val_evaluator', 'test_evaluator'):
        for metric in dicts_within(cfg.get(name)):
            if 'iou_metrics' in metric:
                values[f'{name}.ignore_index'] = metric.get('ignore_index', 255)
    if len(set(values.values())) > 1:
        told = ', '.join(f'{where} is {value}' for where, value in values.items())
        yield f'The ignored value of labels differs: {told}. Set ignore_index to one value'
