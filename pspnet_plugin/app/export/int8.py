"""Post-training quantization of an exported file, and what it costs in mIoU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch.nn.functional as F
from mmseg.evaluation import IoUMetric
from torch import Tensor

from .onnx_file import INPUT, quiet

# What OpenVINO and ONNX Runtime compute in int8 around a convolution without leaving int8.
QUANTIZED = ['Add', 'AveragePool', 'Clip', 'Concat', 'Conv', 'MaxPool', 'Relu']


def quantize_onnx(source: Path, target: Path, images: Iterable[np.ndarray]) -> None:
    """Write the ONNX file ``source`` to ``target`` with int8 convolutions.

    Args:
        images: what the file takes, for the ranges of the feature maps.
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = iter(images)

        def get_next(self) -> dict | None:
            image = next(self.rest, None)
            return None if image is None else {INPUT: image}

    with quiet(), tempfile.TemporaryDirectory() as folder:
        # It also computes what is constant, such as the part of a weight that a convolution takes.
        prepared = Path(folder, 'prepared.onnx')
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            target,
            Reader(),
            op_types_to_quantize=QUANTIZED,
            per_channel=True,
        )


def quantize_openvino(source: Path, target: Path, images: Iterable[np.ndarray]) -> None:
    """The same for a file of OpenVINO."""
    import nncf
    import openvino

    model = openvino.Core().read_model(source)
    model = nncf.quantize(model, nncf.Dataset(list(images)))
    openvino.save_model(model, target, compress_to_fp16=False)


def mean_ious(
    predictions: Mapping[str, Callable[[Tensor], Tensor]],
    samples: Iterable[dict[str, Any]],
    classes: int,
    ignore_index: int,
) -> dict[str, float]:
    """The mIoU in percent of several ways to predict, by mmseg's metric.

    Args:
        predictions: from images as they were read, (1, C, H, W), to label maps, (1, H, W).
        samples: with ``inputs`` and the label map, as ``PackSegInputs`` makes them.
    """
    areas: dict[str, list[tuple]] = {name: [] for name in predictions}
    for sample in samples:
        label = sample['data_samples'].gt_sem_seg.data[0]
        for name, predict in predictions.items():
            predicted = nearest(predict(sample['inputs'][None]), tuple(label.shape))[0]
            counted = IoUMetric.intersect_and_union(predicted, label, classes, ignore_index)
            areas[name].append(counted)
    return {name: 100 * _mean_iou(found) for name, found in areas.items()}


def _mean_iou(areas: list[tuple]) -> float:
    totals = [sum(column) for column in zip(*areas)]
    metrics = IoUMetric.total_area_to_metrics(*totals, metrics=['mIoU'])
    return float(np.nanmean(metrics['IoU']))


def nearest(labels: Tensor, size: tuple[int, ...]) -> Tensor:
    """Label maps, (N, H, W), at another size."""
    return F.interpolate(labels[:, None].float(), size=size)[:, 0].long()
