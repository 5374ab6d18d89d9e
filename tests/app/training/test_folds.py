"""Cross-validation: lists, runs that are done once, and tables over all folds."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.errors import DataError
from pspnet_plugin.app.own_data.split import fold_numbers
from pspnet_plugin.app.reports.folds import learning_curve, table_of_classes
from pspnet_plugin.app.training.folds import Fold, part_of, train_fold
from tests.helpers.folders import make_folders
from tests.helpers.street_scenes import NARROW_OWN_DATA


class Image:
    def __init__(self, *values):
        self.values = Counter(dict.fromkeys(values, 10))


def test_each_image_validates_once_with_its_group_and_rare_classes_are_spread():
    images = [Image(0, 1) if number % 3 else Image(0, 2) for number in range(30)]
    groups = [[0, 1, 2, 3], *([number] for number in range(4, 30))]
    numbers = fold_numbers(images, groups, [0, 1, 2], 5)
    assert len({numbers[number] for number in range(4)}) == 1
    assert max(Counter(numbers).values()) - min(Counter(numbers).values()) <= 2
    rare = Counter(n for n, image in zip(numbers, images) if image.values[2])
    assert len(rare) == 5
    assert max(rare.values()) <= 3
    with pytest.raises(DataError, match='--folds 40: between 2 and 27'):
        fold_numbers(images, groups, [0, 1, 2], 40)


def test_a_smaller_share_of_the_labels_is_a_part_of_a_larger_one():
    listed = ''.join(f'{number}\n' for number in range(40))
    quarter, half = (part_of(listed, share).split() for share in (0.25, 0.5))
    assert (len(quarter), len(half)) == (10, 20)
    assert set(quarter) < set(half)
    assert part_of(listed, 1.0) == listed


def made_folds(rng, quality, folds=5, images=12):
    sizes = np.random.default_rng(3).gamma(2, 100, (folds, images, 2))
    right = sizes * rng.uniform(quality - 0.1, quality, sizes.shape)
    return list(np.stack([right, sizes, sizes], axis=2))


def test_the_table_has_the_iou_of_all_images_with_mean_and_range_of_folds():
    folds = made_folds(np.random.default_rng(0), 0.9)
    folds[2][..., 1] = 0  # a class that one fold has not
    lines = table_of_classes(folds, ['ground', 'crack']).splitlines()
    found = {line.split()[1]: re.findall(r'[\d.]+', line) for line in lines if 'to' in line.split()}
    for number, name in enumerate(['ground', 'crack']):
        areas = [fold[:, :, number].sum(0) for fold in folds]
        ious = [a / (b + c - a) for a, b, c in areas if b]
        both, label, predicted = np.sum(areas, axis=0)
        expected = [both / (label + predicted - both), np.mean(ious), min(ious), max(ious)]
        told = [float(text) / 100 for text in found[name]]
        np.testing.assert_allclose([told[0], *told[3:]], expected, atol=6e-4)
        assert told[1] < told[0] < told[2]


@pytest.mark.parametrize(('half', 'told'), [(0.7, 'are likely to help'), (0.9, 'may not help')])
def test_the_learning_curve_says_whether_the_last_half_of_the_labels_has_helped(half, told):
    rng = np.random.default_rng(0)
    found = {share: made_folds(rng, q) for share, q in ((0.25, 0.5), (0.5, half), (1.0, 0.9))}
    assert f'more labels {told}' in learning_curve(found)


def test_each_fold_is_trained_once_and_predicts_what_it_has_not_seen(here, capsys):
    make_folders(here)
    words = ['init', 'images', 'masks', '--out', 'mine', '--iterations', '2', '--folds', '2']
    assert main(words) == 0
    options = [f'{key}={value}' for key, value in NARROW_OWN_DATA.items()]
    command = ['folds', 'mine/mine.py', '--cfg-options', *options]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert told.count('training, its output is in') == 2
    assert '10 images, each predicted by a run that has not seen it' in told
    results = sorted(Path('work_dirs/mine_folds').glob('fold_*/areas.npy'))
    sizes = [len(Path('mine/folds', n, 'val.txt').read_text().split()) for n in '12']
    assert [len(np.load(result)) for result in results] == sizes
    assert sum(sizes) == 10

    before = [result.stat().st_mtime_ns for result in results]
    assert main(command) == 0
    again = capsys.readouterr().out
    assert 'training' not in again
    assert again.partition('10 images')[2] == told.rpartition('10 images')[2]
    assert [result.stat().st_mtime_ns for result in results] == before

    os.utime(f'masks/{Path("mine/folds/1/val.txt").read_text().split()[0]}.png')
    assert main(command) == 1
    assert 'or images or label maps have changed' in capsys.readouterr().err
    assert main([*command, 'train_cfg.max_iters=3']) == 1
    assert 'is of another config or of other folds' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('allowed', 'taken'),
    [('2,5', ['2', '5', '2']), ('GPU-a, GPU-b', ['GPU-a', 'GPU-b', 'GPU-a']), (None, list('010'))],
)
def test_runs_take_the_gpus_that_the_command_may_use(tmp_path, monkeypatch, allowed, taken):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if allowed is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', allowed)
    found = []

    def run(command, env, **_):
        found.append(env['CUDA_VISIBLE_DEVICES'])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, 'run', run)
    for device in range(3):
        train_fold(Fold(tmp_path, {}, '', ''), device)
    assert found == taken


def test_a_list_in_another_encoding_is_one_line(here, capsys):
    Path('mine.py').write_text('model = dict()\n')
    for number in '12':
        Path('folds', number).mkdir(parents=True)
        for name in ('train.txt', 'val.txt'):
            Path('folds', number, name).write_bytes(b'caf\xe9\n')
    assert main(['folds', 'mine.py']) == 1
    assert capsys.readouterr().err.startswith('error: folds/1/train.txt: is no UTF-8 (')


@pytest.mark.parametrize(
    ('lists', 'told'),
    [
        ({'1/train.txt': 'c\na b\n', '2/train.txt': 'd\n'}, 'val.txt and folds/1/train.txt both'),
        ({'2/train.txt': 'd\n', '2/val.txt': 'a b\n'}, 'folds/2/val.txt and folds/1/val.txt both'),
        (
            {'03/train.txt': 'd\n', '03/val.txt': 'a b\n'},
            'folds/03/val.txt and folds/1/val.txt both',
        ),
        (
            {'1/train.txt': 'c\n\n', '1/val.txt': '\n \na b\n', '2/val.txt': '\na b\n'},
            'folds/2/val.txt and folds/2/train.txt both',
        ),
    ],
)
def test_an_image_that_a_run_has_seen_or_another_has_predicted_is_refused(
    here, capsys, lists, told
):
    loader = dict(dataset=dict(type='X', ann_file=''))
    names = 'train_dataloader', 'val_dataloader', 'test_dataloader'
    Path('mine.json').write_text(json.dumps({'model': {}, **dict.fromkeys(names, loader)}))
    lists = {
        '1/train.txt': 'c\n',
        '1/val.txt': 'a b\n',
        '2/train.txt': 'a b\n',
        '2/val.txt': 'c\n',
        **lists,
    }
    for name, text in {**lists, '1_old/train.txt': 'b\n'}.items():
        Path('folds', name).parent.mkdir(parents=True, exist_ok=True)
        Path('folds', name).write_text(text)
    assert main(['folds', 'mine.json']) == 1
    error = capsys.readouterr().err
    assert f'{told} have a b: ' in error
    assert error.count('\n') == 1


@pytest.mark.parametrize(
    ('words', 'environment', 'told'),
    [
        (['mine.py'], {}, 'folds holds no two folds'),
        (['mine.py'], {'WORLD_SIZE': '2'}, 'leave out torchrun'),
        (['mine.py', '--jobs', '0'], {}, '--jobs 0 is no number'),
    ],
)
def test_what_cannot_be_done_is_one_line(here, monkeypatch, capsys, words, environment, told):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    Path('mine.py').write_text('model = dict()\n')
    assert main(['folds', *words]) == 1
    error = capsys.readouterr().err
    assert told in error
    assert error.count('\n') == 1
