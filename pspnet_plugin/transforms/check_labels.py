"""A check of every label map while it is loaded, before a wrong value reaches the loss."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from mmseg.registry import TRANSFORMS

from ..errors import PspnetPluginError


class LabelValueError(PspnetPluginError):
    """A label map holds a value that is neither a class nor the ignored one."""


class LabelSizeError(PspnetPluginError):
    """A label map has another size than its image."""


class LabelsNotLoadedError(PspnetPluginError):
    """A sample has a label map, and nothing has loaded it before it is to be checked."""


@TRANSFORMS.register_module()
class CheckLabels(BaseTransform):
    """Stop at a label map of another size than its image, or with values outside the classes.

    Its place is after ``LoadAnnotations``. Without it such a value is a device-side assert in
    training on a GPU, an IndexError without a file name on a CPU, and silently left out by the
    evaluation; a label map of another size is scaled and cropped beside its image, and teaches
    wrong labels. Images without labels pass, so that a model predicts with the pipeline that it was
    tested with.

    Args:
        num_classes: how many classes the model has; label values are 0 to ``num_classes - 1``.
        ignore_index: the value of pixels that are ignored in training and evaluation.

    Raises:
        LabelValueError: naming the file, the values and the number of classes.
        LabelSizeError: naming the files and their sizes.
        LabelsNotLoadedError: the dataset has a label map for the image, but no step before this one
            loads it.
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
            raise LabelsNotLoadedError(
                f'{results["seg_map_path"]} is not loaded where CheckLabels stands in the '
                'pipeline. Put LoadAnnotations before it, or take CheckLabels out.'
            )
        self._require_size_of_image(results)
        wrong = values_outside(results['gt_seg_map'], self.num_classes, self.ignore_index)
        if wrong.size:
            # reduce_zero_label made 0 of 1, 1 of 2, ...; the message names the values of the file.
            in_file = wrong + 1 if results.get('reduce_zero_label') else wrong
            raise LabelValueError(self._message(results, in_file))
        return results

    def _require_size_of_image(self, results: dict) -> None:
        """Raise unless the label map has the size of the image file, or that of the image now."""
        size = results['gt_seg_map'].shape[:2]
        image = results.get('img')
        sizes = [results.get('ori_shape'), getattr(image, 'shape', None)]
        known = [tuple(shape[:2]) for shape in sizes if shape is not None]
        if known and size not in known:
            (height, width), (own_height, own_width) = known[0], size
            raise LabelSizeError(
                f'{results.get("seg_map_path", "a label map")}: {own_width} x {own_height} pixels, '
                f'but its image {results.get("img_path", "")} has {width} x {height}. Write the '
                'label map at the size of the image.'
            )

    def _message(self, results: dict, values: np.ndarray) -> str:
        shown = ', '.join(str(value) for value in values[:8]) + (', …' if values.size > 8 else '')
        values_in_file = f'0 to {self.num_classes - 1}, and {self.ignore_index} for ignored pixels'
        if results.get('reduce_zero_label'):
            values_in_file = f'1 to {self.num_classes}, and 0 for ignored pixels'
        return (
            f'{results.get("seg_map_path", "a label map")} holds the label values {shown}, but '
            f'there are {self.num_classes} classes: {values_in_file}. Convert the labels to these '
            'values, or set num_classes in both heads and in CheckLabels.'
        )

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(num_classes={self.num_classes}, '
            f'ignore_index={self.ignore_index})'
        )


def values_outside(label_map: np.ndarray, num_classes: int, ignore_index: int) -> np.ndarray:
    """The sorted values in ``label_map`` (H, W), integers, that are no class and not ignored."""
    if label_map.dtype == np.uint8:
        present = np.flatnonzero(np.bincount(label_map.ravel(), minlength=256))
    else:
        present = np.unique(label_map)
    is_class = (present >= 0) & (present < num_classes)
    return present[~is_class & (present != ignore_index)]
