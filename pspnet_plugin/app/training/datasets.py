"""Whether a config's datasets lie where it says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from ...errors import PspnetPluginError
from ...utils.config_files import shipped
from ...utils.config_tree import dicts_within
from ...utils.datasets import datasets_of, listed_samples, scope_of, without_pipeline
from . import stock_tools

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


class DatasetError(PspnetPluginError):
    """A dataset that the config names is missing or incomplete."""


def check_datasets(cfg: Config, loaders: Sequence[str] = LOADERS) -> None:
    """Raise :class:`DatasetError` unless every dataset lies where ``cfg`` says, with its labels."""
    make_it = '.'
    if command := cfg.get('prepare_dataset'):
        command = command.replace('{mmseg_tools}', str(stock_tools()))
        command = command.replace('{plugin_tools}', str(shipped('tools')))
        make_it = f', or make it: {command}'
    for _, dataset in datasets_of(cfg, loaders):
        setting = 'data_root' if dataset.get('data_root') else 'its path'
        way_out = f'Set {setting} in the config to where it is{make_it}'
        check_folders(dataset, way_out)
        check_samples(dataset, scope_of(cfg), way_out)


def check_folders(dataset: dict, way_out: str) -> None:
    root = dataset.get('data_root') or ''
    named = dict(dataset.get('data_prefix') or {}, ann_file=dataset.get('ann_file'))
    if not reads_labels(dataset):
        named.pop('seg_map_path', None)
    for path in [root, *(os.path.join(root, part) for part in named.values() if part)]:
        if path and is_missing(path, dataset):
            raise DatasetError(f'{os.path.abspath(path)} does not exist. {way_out}')


def check_samples(dataset: dict, scope: str, way_out: str) -> None:
    """Every image that MMSegmentation lists for ``dataset`` exists and has its label map."""
    built = without_pipeline(dataset, scope)
    if built is None:
        return
    samples = listed_samples(built)
    if not samples:
        folder = os.path.abspath(built.data_prefix.get('img_path') or '')
        raise DatasetError(f'No image *{built.img_suffix} lies in {folder}. {way_out}')
    labels = reads_labels(dataset)
    for sample in samples:
        image, label_map = sample['img_path'], sample.get('seg_map_path') if labels else None
        if is_missing(image, dataset):
            raise DatasetError(f'The image {os.path.abspath(image)} does not exist. {way_out}')
        if label_map and is_missing(label_map, dataset):
            raise DatasetError(
                f'The label map {os.path.abspath(label_map)} does not exist but the image {image} '
                f'does. Add it, or take the image out. {way_out}'
            )


def check_outputs(cfg: Config) -> None:
    """Raise :class:`DatasetError` where label maps of a test would replace files, or each other.

    mmseg names them after their images, without the folders of these.
    """
    metrics = dicts_within(cfg.get('test_evaluator'))
    folders = [metric['output_dir'] for metric in metrics if metric.get('output_dir')]
    images: dict[str, str] = {}
    for _, dataset in datasets_of(cfg, LOADERS[2:] if folders else ()):
        built = without_pipeline(dataset, scope_of(cfg))
        for sample in listed_samples(built) if built is not None else ():
            image = sample['img_path']
            name = f'{Path(image).stem}.png'
            if images.setdefault(name, image) != image:
                raise DatasetError(
                    f'{images[name]} and {image} have one name, and so would their label maps in '
                    f'{folders[0]}: pspnet predict keeps the folders apart.'
                )
    for path in (Path(folder, name) for folder in folders for name in images):
        if path.exists():
            raise DatasetError(f'{path} is there already and would be lost: name another --out.')


def reads_labels(dataset: dict) -> bool:
    """Whether the pipeline loads label maps; a test split without them is nothing wrong."""
    steps = dicts_within(dataset.get('pipeline'))
    return any('Annotations' in str(step.get('type')) for step in steps)


def is_missing(path: str, dataset: dict) -> bool:
    """Whether a local file or folder does not exist; others are not looked for."""
    local = '://' not in path and not dataset.get('backend_args')
    return local and not os.path.exists(path)
