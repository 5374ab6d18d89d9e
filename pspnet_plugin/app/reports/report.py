"""From a config and checkpoints to the page that shows how good they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.config import Config

from ...errors import PspnetPluginError
from ...utils.files import require_own
from ..prediction import Prediction
from .evaluation import Evaluation, evaluate, samples_in
from .metrics import interval, ious_of, mean_of, percent, percents, resampled_ious
from .page import Origin, Pictures, page_text, reports_of_loads, write_page
from .pictures import encoded_figure, encoded_image, encoded_map, room_for
from .runs import LogError, read_run, runs_figure


def write_report(
    cfg: Config,
    checkpoints: Sequence[str],
    out: Path,
    loader: str,
    work_dir: Path,
    device: str | None,
    origin: Origin,
) -> list[Evaluation]:
    """Predict the images of a data loader with each checkpoint, and write the page about it.

    Args:
        work_dir: whose log has the curves of the run; where it has none, neither has the page.

    Raises:
        PspnetPluginError: something cannot be read or predicted.
        OSError: ``out`` cannot be written.
    """
    # What may be wrong there is told before images are predicted.
    require_place(out)
    curves = curves_of(work_dir)
    room, room_of_map = room_for(len(samples_in(cfg, loader)), 1 + len(checkpoints))
    pictures: list[Pictures] = []

    def keep(number: int, labels: np.ndarray, prediction: Prediction) -> None:
        classes = len(prediction.classes)
        if number == len(pictures):
            image = encoded_image(prediction.image, room)
            label = encoded_map(labels, classes, room_of_map)
            pictures.append(Pictures(labels.shape[::-1], image, label, []))
        shown = encoded_map(prediction.label_map, classes, room_of_map)
        pictures[number].predictions.append(shown)

    evaluations = [evaluate(cfg, path, loader, device, keep) for path in checkpoints]
    write_page(out, page_text(evaluations, pictures, curves, reports_of_loads(work_dir), origin))
    return evaluations


def require_place(out: Path) -> None:
    """Make the folder of a file; PspnetPluginError where another is there."""
    if out.is_dir():
        raise PspnetPluginError(f'{out} is a folder: name the file to write.')
    require_own(out, 'content="pspnet report"')
    out.parent.mkdir(parents=True, exist_ok=True)


def curves_of(work_dir: Path) -> str | None:
    """The curves of a run as a picture; None where no run has left a log."""
    try:
        run = read_run(work_dir)
    except LogError:
        return None
    return encoded_figure(runs_figure([run]))


def verdict(found: Evaluation) -> str:
    """The mIoU of a checkpoint with its interval, in one line."""
    draws = mean_of(resampled_ious(found.areas))
    bounds = percents(interval(draws, len(found.images)))
    miou = percent(mean_of(ious_of(found.areas.sum(0))))
    return f'{found.checkpoint}: mIoU {miou} (95 % interval {bounds})'
