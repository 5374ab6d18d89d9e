"""A folder of images, from their files to files of label maps and overlays."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import save_checkpoint
from mmseg.apis import MMSegInferencer
from PIL import Image

from pspnet_plugin.app.models import init_model
from pspnet_plugin.app.models.classes import spread_colours
from pspnet_plugin.app.prediction.folder import predict_folder

from .allocator import stop_keeping_freed_memory
from .inputs import write_image
from .models import stock_config
from .predict import LABELS, share_equal, weights
from .settings import Settings
from .table import Baseline, Quantity, Table, Wanted
from .timing import time_alternately

STOCK, OURS = 'stock', 'pspnet predict'
TIME = 'files to files'
IMAGES = 3


def measure(settings: Settings) -> list[Table]:
    """One table: MMSegInferencer, and the plugin's command with the same model and images."""
    height, width = settings.crop
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = [str(folder / f'{number}.png') for number in range(IMAGES)]
        for file in files:
            write_image(Path(file), (2 * height, 2 * width))
        config, checkpoint = write_model(folder, files[0], settings)
        steps = {
            STOCK: stock_step(config, checkpoint, files, folder / 'stock', settings),
            OURS: our_step(config, checkpoint, files, folder / 'ours', settings),
        }
        stop_keeping_freed_memory()  # which init_model has begun: stock is timed without it
        seconds = time_alternately(steps, settings, (OURS,))
        labels = {
            STOCK: read_labels(folder / 'stock' / 'pred'),
            OURS: read_labels(folder / 'ours' / 'labels'),
        }
    equal = {row: [share_equal(labels, row)] for row in labels}
    return [
        Table(
            title=f'{IMAGES} images of {2 * height} x {2 * width}, PSPNet-R50-d8 at {height} x '
            f'{width}; stock is MMSegInferencer',
            baselines=(Baseline(STOCK),),
            quantities=(Quantity(TIME, 's', seconds), Quantity(LABELS, '%', equal)),
            wanted=(Wanted(TIME, OURS, STOCK, low=1.6), Wanted(LABELS, OURS, None, low=99.99)),
        )
    ]


def write_model(folder: Path, image: str, settings: Settings) -> tuple[Config, str]:
    """The stock config at the settings' sizes, and a file of weights that suit ``image``."""
    config = stock_config(settings)
    for pipeline in (config.test_pipeline, config.test_dataloader.dataset.pipeline):
        pipeline[1].scale = settings.crop[::-1]
    names = [str(number) for number in range(settings.classes)]
    said = {'classes': names, 'palette': spread_colours(settings.classes)}
    content = {'state_dict': weights(image, settings), 'meta': {'dataset_meta': said}}
    checkpoint = str(folder / 'weights.pth')
    save_checkpoint(content, checkpoint)
    return config, checkpoint


def stock_step(
    config: Config, checkpoint: str, files: list[str], out: Path, settings: Settings
) -> Callable[[], None]:
    """Predict ``files`` by mmseg's MMSegInferencer."""
    inferencer = MMSegInferencer(config, checkpoint, device=settings.device)
    inferencer.show_progress = False
    inferencer.model.forward = settings.compiled(inferencer.model.forward)

    def step() -> None:
        shutil.rmtree(out, ignore_errors=True)
        inferencer.num_pred_imgs = 0
        with settings.autocast():
            inferencer(files, out_dir=str(out))

    return step


def our_step(
    config: Config, checkpoint: str, files: list[str], out: Path, settings: Settings
) -> Callable[[], None]:
    """Predict ``files`` as ``pspnet predict`` does."""
    model = init_model(config, checkpoint, settings.device, settings.dtype, settings.compile)

    def step() -> None:
        shutil.rmtree(out, ignore_errors=True)
        predict_folder(model, files, out)

    return step


def read_labels(folder: Path) -> torch.Tensor:
    """The label maps in ``folder``, (N, H, W), in the order of their names."""
    maps = [np.asarray(Image.open(path)) for path in sorted(folder.glob('*.png'))]
    return torch.from_numpy(np.stack(maps))
