"""Cross-validation: a run for each fold, and what each predicts of the images it has not seen."""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from ...errors import PspnetPluginError
from ...utils.datasets import datasets_of, listed_samples, scope_of, without_pipeline
from ...utils.files import write_text, write_whole
from ..reports.evaluation import labelled_predictions
from ..reports.metrics import areas_of, count_pairs
from .datasets import LOADERS

LISTS = 'train.txt', 'val.txt'


class FoldError(PspnetPluginError):
    """A fold cannot be trained as asked."""


class Fold(NamedTuple):
    """One run: what it trains on, what it predicts, and where it works."""

    work_dir: Path
    lists: dict[str, str]  # the text of each of LISTS
    text: str  # of its config
    data: str  # a digest, see data_of

    @property
    def files(self) -> dict[Path, str]:
        """What it is asked for, in a folder in which mmengine writes nothing: paths and texts."""
        texts = {**self.lists, 'config.py': self.text, 'data.txt': self.data}
        return {self.work_dir / 'fold' / name: text for name, text in texts.items()}

    @property
    def config(self) -> Path:
        """The file with its config."""
        return self.work_dir / 'fold' / 'config.py'

    @property
    def result(self) -> Path:
        """The file with the areas of its validation images, which is there when it is done."""
        return self.work_dir / 'areas.npy'


def folds_of(cfg: Config, lists: Path, work_dir: Path, share: float = 1.0) -> list[Fold]:
    """The folds whose lists lie in ``lists/NUMBER/``, or a share of the labels of each.

    Raises:
        FoldError: there are none, or a folder in ``work_dir`` is that of another fold.
    """
    names = [path.parent.name for path in lists.glob(f'*/{LISTS[0]}')]
    numbers = sorted((name for name in names if name.isdecimal()), key=int)
    if len(numbers) < 2:
        raise FoldError(
            f'{lists} holds no two folds (NUMBER/train.txt and NUMBER/val.txt, a name in each '
            'line): pspnet init --folds 5 writes them.'
        )
    folds: list[Fold] = []
    validated: dict[str, Path] = {}
    for number in numbers:
        name = f'fold_{number}' if share == 1 else f'fold_{number}_{100 * share:.0f}_percent'
        texts = {name: text_of(lists / number / name) for name in LISTS}
        require_unseen(texts, lists / number, validated)
        texts[LISTS[0]] = part_of(texts[LISTS[0]], share)
        fold = fold_of(cfg, (work_dir / name).resolve(), texts, lists.resolve() / number)
        require_same(fold)
        folds.append(fold)
    return folds


def text_of(path: Path) -> str:
    """The lines of a list, without empty ones."""
    try:
        lines = path.read_text(encoding='utf-8').splitlines(keepends=True)
        return ''.join(line for line in lines if line.strip())
    except UnicodeDecodeError as error:
        raise FoldError(f'{path}: is no UTF-8 ({error}); save it so.') from error


def require_unseen(texts: dict[str, str], folder: Path, validated: dict[str, Path]) -> None:
    """Raise FoldError where an image of ``val.txt`` is trained on, or validates another fold.

    Args:
        validated: the images that validate, with the folders of their folds; those of this join.
    """
    trained, own = (dict.fromkeys(map(str.strip, texts[name].splitlines())) for name in LISTS)
    for image in own:
        if image in trained or image in validated:
            other = folder / LISTS[0] if image in trained else validated[image] / LISTS[1]
            raise FoldError(
                f'{folder / LISTS[1]} and {other} both have {image}: an image validates one fold '
                'and is not trained on in it, or the table would flatter.'
            )
        validated[image] = folder


def part_of(listed: str, share: float) -> str:
    """Some lines of a list; a smaller share is a part of a larger one."""
    lines = listed.splitlines(keepends=True)
    order = np.random.default_rng(0).permutation(len(lines))
    kept = set(order[: max(1, round(share * len(lines)))].tolist())
    return ''.join(line for number, line in enumerate(lines) if number in kept)


def fold_of(cfg: Config, work_dir: Path, texts: dict[str, str], lists: Path) -> Fold:
    """The fold with these lists, of the folder ``lists``, which are copied to its own folder."""
    own = cfg.copy()
    loaders = ('train_dataloader', LISTS[0]), ('val_dataloader', LISTS[1])
    for loader, listed in (*loaders, ('test_dataloader', LISTS[1])):
        if 'ann_file' not in (own.get(loader) or {}).get('dataset', {}):
            raise FoldError(
                f'{loader}.dataset has no ann_file: folds are lists of the images of one dataset.'
            )
        own[loader].dataset.ann_file = str(work_dir / 'fold' / listed)
    return Fold(work_dir, texts, own.pretty_text, data_of(cfg, lists))


def data_of(cfg: Config, lists: Path) -> str:
    """A digest of path, size and time of each image and label map in the lists of a fold."""
    digest = hashlib.sha256()
    for loader, name in zip(LOADERS, LISTS):
        for _, dataset in datasets_of(cfg, (loader,)):
            built = without_pipeline({**dataset, 'ann_file': str(lists / name)}, scope_of(cfg))
            for sample in listed_samples(built) if built is not None else ():
                for path in (sample['img_path'], sample.get('seg_map_path') or ''):
                    if os.path.isfile(path):
                        stat = os.stat(path)
                        digest.update(repr((path, stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()


def require_same(fold: Fold) -> None:
    """Raise FoldError where the folder has begun with another config or other images."""
    for path, text in fold.files.items():
        if path.exists() and path.read_text(encoding='utf-8') != text:
            raise FoldError(
                f'{path} is of another config or of other folds than asked for now, or images or '
                'label maps have changed: name another --work-dir, or remove this one.'
            )


def run_folds(folds: Sequence[Fold], jobs: int, tell: Callable[[str], None]) -> list[np.ndarray]:
    """Train and predict what is not done; the areas of each fold's images, (N, 3, C).

    Args:
        jobs: how many train at a time, on a GPU each where there are several.
        tell: is handed a line for each step.
    """
    devices: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(jobs):
        devices.put(number)

    def train(fold: Fold) -> None:
        if not fold.result.exists():
            device = devices.get()
            try:
                tell(f'{fold.work_dir.name}: training, its output is in {fold.work_dir}/output.txt')
                train_fold(fold, device)
            finally:
                devices.put(device)

    with ThreadPoolExecutor(jobs) as pool:
        waiting = [pool.submit(train, fold) for fold in folds]
        try:
            found = []
            for fold, trained in zip(folds, waiting):
                trained.result()
                found.append(areas_of_fold(fold))
            return found
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def train_fold(fold: Fold, device: int) -> None:
    """Train in a process of its own; what has begun goes on from its last checkpoint."""
    for path, text in fold.files.items():
        write_text(path, text)
    environment = dict(os.environ)
    if (count := torch.cuda.device_count()) > 1:
        allowed = environment.get('CUDA_VISIBLE_DEVICES') or ','.join(map(str, range(count)))
        environment['CUDA_VISIBLE_DEVICES'] = allowed.split(',')[device % count].strip()
    words = ['train', fold.config, '--work-dir', fold.work_dir, '--resume']
    output = fold.work_dir / 'output.txt'
    with open(output, 'ab') as file:
        command = [sys.executable, '-m', 'pspnet_plugin', *map(str, words)]
        code = subprocess.run(command, stdout=file, stderr=file, env=environment).returncode
    if code:
        lines = output.read_text(encoding='utf-8', errors='replace').split('\n')
        told = next((line for line in reversed(lines) if line.strip()), f'exit code {code}')
        raise FoldError(f'{fold.work_dir.name}: {told.removeprefix("error: ")} ({output})')


def areas_of_fold(fold: Fold) -> np.ndarray:
    """What the last checkpoint predicts of the validation images, counted once and kept.

    The last one, not the best: one that is chosen by these images would flatter.
    """
    if not fold.result.exists():
        checkpoint: Any = find_latest_checkpoint(str(fold.work_dir))
        if checkpoint is None:
            raise FoldError(f'{fold.work_dir} has no checkpoint: let the CheckpointHook save_last.')
        predictions = labelled_predictions(Config.fromfile(fold.config), checkpoint)
        areas = [
            areas_of(count_pairs(labels, prediction.label_map, len(prediction.classes)))
            for labels, prediction in predictions
        ]
        with write_whole(fold.result, 'wb') as file:
            np.save(file, np.stack(areas))
    with contextlib.suppress(ValueError):
        return np.load(fold.result)
    raise FoldError(f'{fold.result} cannot be read: remove it, and the images are predicted again.')
