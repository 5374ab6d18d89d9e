"""A check of every label map while it is loaded, before a wrong value reaches the loss."""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS
from PIL import Image

from ..errors import PspnetPluginError

MORE_BITS = ('I', 'I;16', 'I;16B', 'F')  # modes of Pillow


class LabelError(PspnetPluginError):
    """A label map has values that are no class, another size than its image, or is not loaded."""


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Stop at a label map of another size than its image, or with values outside the classes.

    It also stops at values beyond 8 bits, of which ``LoadAnnotations`` makes others. Its place is
    after that step. Without it such a value is a device-side assert in
    training on a GPU, an IndexError without a file name on a CPU, and silently left out by the
    evaluation; a label map of another size is scaled and cropped beside its image, and teaches
    wrong labels. Images without labels pass, so that a model predicts with the pipeline that it was
    tested with.

    Args:
        num_classes: how many classes the model has; label values are 0 to ``num_classes - 1``.
        ignore_index: the value of pixels that are ignored in training and evaluation.

    Raises:
        LabelError: naming the file and the values or the sizes; or the dataset has a label map for
            the image, but no step before this one loads it.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def transform(self, results: dict) -> dict:
        """Return ``results`` unchanged, or raise; reads ``gt_seg_map``, (H, W), where it is."""
        if 'gt_seg_map' not in results:
            # Only a dataset names a label map; an image that is to be predicted has none.
            if results.get('seg_map_path') is None:
                return results
            raise LabelError(
                f'{results["seg_map_path"]} is not loaded where CheckLabels stands in the '
                'pipeline. Put LoadAnnotations before it, or take CheckLabels out.'
            )
        label_map, image = results['gt_seg_map'], results.get('img')
        path = results.get('seg_map_path', 'a label map')
        # The size of the image file, or that of the image now.
        shapes = results.get('ori_shape'), getattr(image, 'shape', None)
        sizes = [tuple(shape[:2]) for shape in shapes if shape is not None]
        if sizes and label_map.shape[:2] not in sizes:
            (height, width), (own_height, own_width) = sizes[0], label_map.shape[:2]
            raise LabelError(
                f'{path}: {own_width} x {own_height} pixels, but its image '
                f'{results.get("img_path", "")} has {width} x {height}. Write the label map at the '
                'size of the image.'
            )
        if label_map.ndim != 2:
            raise LabelError(
                f'{path} is in colours, {label_map.shape[2]} numbers for each pixel; a label map '
                'has one. Convert it, as pspnet init does.'
            )
        if problem := altered_values(results):
            raise LabelError(problem)
        wrong = values_outside(label_map, self.num_classes, self.ignore_index)
        if wrong.size:
            known = f'0 to {self.num_classes - 1}, and {self.ignore_index} for ignored pixels'
            if results.get('reduce_zero_label'):  # It made 0 of 1, 1 of 2, ...; told is the file's.
                wrong = wrong + 1
                known = f'1 to {self.num_classes}, and 0 for ignored pixels'
            shown = ', '.join(map(str, wrong[:8])) + (', …' if wrong.size > 8 else '')
            raise LabelError(
                f'{path} holds the label values {shown}, but there are {self.num_classes} classes: '
                f'{known}. Convert the labels to these values, or set num_classes in both heads '
                'and in CheckLabels.'
            )
        return results

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(num_classes={self.num_classes}, '
            f'ignore_index={self.ignore_index})'
        )


def altered_values(results: Mapping) -> str:
    """What to say where ``LoadAnnotations``, which keeps 8 bits, made others of a file's values.

    Args:
        results: of a pipeline, with ``gt_seg_map`` as it was loaded, (H, W).
    """
    path, label_map = results.get('seg_map_path') or '', results['gt_seg_map']
    if label_map.dtype != np.uint8 or not os.path.isfile(path):
        return ''
    try:
        with Image.open(path) as file:
            if file.mode not in MORE_BITS:
                return ''
            values = np.asarray(file)
    except (OSError, SyntaxError, ValueError):  # what another reader has read
        return ''
    if values.shape != label_map.shape:
        return ''
    with np.errstate(invalid='ignore'):  # NaN has no 8 bits
        kept = values.astype(np.uint8)
    # Of another loader nothing is said; one more is what reduce_zero_label has taken off.
    is_read = results.get('label_map') or (label_map == kept) | (label_map + np.uint8(1) == kept)
    lost = np.unique(values[(kept != values) & is_read])
    shown = ', '.join(f'{value:g}' for value in lost[:4])
    told = f'{path}: LoadAnnotations keeps 8 bits and makes others of {shown}: write 0 to 255'
    return told if lost.size else ''


def values_outside(label_map: np.ndarray, num_classes: int, ignore_index: int) -> np.ndarray:
    """The sorted values in ``label_map`` (H, W), integers, that are no class and not ignored."""
    present = values_in(label_map)
    is_class = (present >= 0) & (present < num_classes)
    return present[~is_class & (present != ignore_index)]


def values_in(label_map: np.ndarray) -> np.ndarray:
    """The sorted values in ``label_map`` (H, W), integers; those of 8 bits are counted faster."""
    if label_map.dtype == np.uint8:
        return np.flatnonzero(np.bincount(label_map.ravel(), minlength=256))
    return np.unique(label_map)
