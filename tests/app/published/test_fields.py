"""Published datasets: what is written, and that their configs train and test on it."""

from __future__ import annotations

import gzip
import zipfile

import nibabel
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.published.datasets import PUBLISHED
from pspnet_plugin.app.training import stock_tools
from pspnet_plugin.app.training.datasets import check_datasets
from pspnet_plugin.app.training.launch import fit_to_cpu
from pspnet_plugin.utils.config_tree import dicts_within
from tests.helpers.processes import ROOT, run_script
from tests.helpers.published import MINIATURES
from tests.helpers.street_scenes import NARROW

SIDE = (64, 64)
LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
datasets = pytest.mark.parametrize('name', list(PUBLISHED))


@pytest.fixture
def published(tmp_path):
    def make(name):
        (tmp_path / 'archives').mkdir()
        return MINIATURES[name](tmp_path / 'archives')

    return make


def small(name: str, data, work_dir) -> Config:
    """The config of a dataset with a narrow network, for two iterations on images of 64 x 64."""
    cfg = Config.fromfile(ROOT / 'configs' / f'psp_r18_{name}.py')
    options = {
        'model.backbone.init_cfg': None,
        **NARROW,
        'model.data_preprocessor.size': SIDE,
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
        'train_dataloader.batch_size': 2,
        'default_hooks.checkpoint.interval': 2,
    }
    for loader in LOADERS:
        options[f'{loader}.num_workers'] = 0
        options[f'{loader}.persistent_workers'] = False
        options[f'{loader}.dataset.data_root'] = str(data)
    cfg.merge_from_dict(options)
    for step in dicts_within([cfg[loader] for loader in LOADERS]):
        step.update({key: SIDE for key in ('scale', 'crop_size') if key in step})
    cfg.work_dir = str(work_dir)
    fit_to_cpu(cfg)
    return cfg


@datasets
def test_a_published_archive_is_prepared_and_its_config_trains_and_tests(
    name, published, tmp_path, capsys
):
    archives, labels = published(name)
    out = tmp_path / 'data'
    assert main(['prepare', name, *map(str, archives), '--out', str(out)]) == 0
    captured = capsys.readouterr()
    assert 'was published with' in captured.err  # fewer than were published
    assert f'{sum(split == "train" for split, _ in labels)} train' in captured.out
    written = {
        (path.parent.name, path.stem): np.asarray(Image.open(path))
        for path in (out / 'ann_dir').rglob('*.png')
    }
    assert written.keys() == labels.keys()
    for key, label_map in labels.items():
        np.testing.assert_array_equal(written[key], label_map, err_msg=str(key))

    cfg = small(name, out, tmp_path / 'run')
    check_datasets(cfg, LOADERS)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2
    metrics = runner.test()
    assert 0 <= metrics['mIoU'] <= 100

    cfg.tta_model.module, cfg.model = cfg.model, cfg.tta_model  # as the stock test.py --tta does
    cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    for step in dicts_within(cfg.tta_pipeline):
        if step.get('type') == 'Resize':
            step.update(scale=SIDE, scale_factor=None)
    cfg.experiment_name = 'tta'
    assert 0 <= Runner.from_cfg(cfg).test()['mIoU'] <= 100


@datasets
def test_the_config_names_the_command_that_prepares_its_dataset(name):
    cfg = Config.fromfile(ROOT / 'configs' / f'psp_r18_{name}.py')
    command, *words = cfg.prepare_dataset.split()[1:]
    assert (command, words[0]) == ('prepare', name)
    assert all(word in PUBLISHED[name].archives for word in words[1:] if word.endswith('.zip'))
    root = cfg.train_dataloader.dataset.data_root
    assert root == (words[-1] if '--out' in words else f'data/{name}')


@pytest.mark.parametrize('name', ['loveda', 'potsdam'])
def test_the_files_are_those_of_the_converter_of_mmsegmentation(name, published, tmp_path):
    archives, _ = published(name)
    ours, theirs = tmp_path / 'ours', tmp_path / 'theirs'
    assert main(['prepare', name, *map(str, archives), '--out', str(ours)]) == 0
    converter = stock_tools() / 'dataset_converters' / f'{name}.py'
    assert run_script(converter, archives[0].parent, '-o', theirs) in (0, None)
    files = {path.relative_to(ours) for path in ours.rglob('*.png')}
    assert files == {
        path.relative_to(theirs) for path in theirs.rglob('*.png') if path.parent.name != 'test'
    }
    for file in files:
        np.testing.assert_array_equal(
            np.asarray(Image.open(ours / file)), np.asarray(Image.open(theirs / file))
        )


def test_slices_have_16_bits_of_the_window_of_the_paper(published, tmp_path):
    archives, _ = published('synapse')
    assert main(['prepare', 'synapse', *map(str, archives), '--out', str(tmp_path / 'data')]) == 0
    with zipfile.ZipFile(archives[0]) as archive:
        content = gzip.decompress(archive.read('RawData/Training/img/img0005.nii.gz'))
    density = np.asarray(nibabel.Nifti1Image.from_bytes(content).dataobj)[:, ::-1, 1]
    with Image.open(tmp_path / 'data' / 'img_dir' / 'train' / 'case0005_slice001.png') as image:
        written = np.asarray(image)
    assert written.dtype == np.uint16
    expected = (np.clip(density, -125, 275) + 125.0) / 400 * 65535
    np.testing.assert_allclose(written, expected, atol=0.51)
