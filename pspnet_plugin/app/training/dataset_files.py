"""Whether the files of a config's datasets lie where it says."""

from __future__ import annotations

import os

from mmengine.config import Config

from ...errors import PspnetPluginError
from ...utils.config_tree import datasets_within, dicts_within
from ...utils.datasets import scope_of, without_pipeline
from .tools import OWN_TOOLS, stock_tools


class DatasetError(PspnetPluginError):
    """A dataset that the config names is missing or incomplete."""


def check_datasets(cfg: Config, loaders: tuple[str, ...]) -> None:
    """Raise :class:`DatasetError` unless every dataset lies where ``cfg`` says, with its labels."""
    way_out = preparation(cfg)
    for loader in loaders:
        for dataset in datasets_within((cfg.get(loader) or {}).get('dataset')):
            check_folders(dataset, way_out)
            check_samples(dataset, scope_of(cfg), way_out)


def preparation(cfg: Config) -> str:
    """A sentence with the command that makes the dataset: the config's ``prepare_dataset``."""
    command = cfg.get('prepare_dataset')
    if not command:
        return 'Set data_root in the config to where it is.'
    command = command.replace('{mmseg_tools}', str(stock_tools()))
    command = command.replace('{plugin_tools}', str(OWN_TOOLS))
    return f'Set data_root in the config to where it is, or make it: {command}'


def check_folders(dataset: dict, way_out: str) -> None:
    root = dataset.get('data_root') or ''
    named = dict(dataset.get('data_prefix') or {}, ann_file=dataset.get('ann_file'))
    if not reads_labels(dataset):
        named.pop('seg_map_path', None)
    for path in [root, *(os.path.join(root, part) for part in named.values() if part)]:
        if path and is_local(path, dataset) and not os.path.exists(path):
            raise DatasetError(f'{os.path.abspath(path)} does not exist. {way_out}')


def check_samples(dataset: dict, scope: str, way_out: str) -> None:
    """Every image that MMSegmentation lists for ``dataset`` exists and has its label map."""
    built = without_pipeline(dataset, scope)
    if built is None:
        return
    samples = built.load_data_list()
    if not samples:
        folder = os.path.abspath(built.data_prefix.get('img_path') or '')
        raise DatasetError(f'No image *{built.img_suffix} lies in {folder}. {way_out}')
    labels = reads_labels(dataset)
    for sample in samples:
        image, label_map = sample['img_path'], sample.get('seg_map_path') if labels else None
        if is_local(image, dataset) and not os.path.isfile(image):
            raise DatasetError(f'The image {os.path.abspath(image)} does not exist. {way_out}')
        if label_map and is_local(label_map, dataset) and not os.path.isfile(label_map):
            raise DatasetError(
                f'The label map {os.path.abspath(label_map)} does not exist but the image {image} '
                f'does. Add it, or take the image out. {way_out}'
            )


def reads_labels(dataset: dict) -> bool:
    """Whether the pipeline loads label maps; a test split without them is nothing wrong."""
    steps = dicts_within(dataset.get('pipeline'))
    return any('Annotations' in str(step.get('type')) for step in steps)


def is_local(path: str, dataset: dict) -> bool:
    return '://' not in path and not dataset.get('backend_args')
