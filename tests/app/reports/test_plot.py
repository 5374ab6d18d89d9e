"""``pspnet plot``: the curves of runs, from their logs."""

from __future__ import annotations

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from mmengine.config import Config
from PIL import Image

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.reports.figures import save
from pspnet_plugin.app.reports.runs import read_run, timeline_of
from pspnet_plugin.errors import PspnetPluginError
from tests.helpers.limits import file_size_limit
from tests.helpers.logs import write_log
from tests.helpers.processes import ROOT

FIRST, SECOND = (31, 119, 180), (255, 127, 14)  # matplotlib's first two colours
FROZEN = (217, 217, 217)


@pytest.fixture
def frozen_config(tmp_path):
    """Gradual unfreezing of a narrow network over 20 iterations."""
    cfg = Config.fromfile(ROOT / 'configs' / 'psp_r18_cityscapes.py')
    cfg.merge_from_dict(
        {
            'model.backbone.base_channels': 8,
            'model.backbone.stem_channels': 8,
            'model.decode_head.in_channels': 64,
            'model.auxiliary_head.in_channels': 32,
            'train_cfg.max_iters': 20,
        }
    )
    cfg.custom_hooks = [
        dict(type='LayerFreezeHook', schedule=dict(type='gradual_unfreeze', begin=0.1, end=0.5))
    ]
    cfg.dump(tmp_path / 'frozen.py')
    return tmp_path / 'frozen.py'


def plot(capsys, *work_dirs, out):
    code = main(['plot', *map(str, work_dirs), '--out', str(out)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def picture(path):
    with Image.open(path) as image:
        return np.asarray(image.convert('RGB'))


def area(image, colour):
    return (image == colour).all(axis=-1).sum()


def test_curves_of_several_runs_and_a_timeline_of_what_was_frozen(tmp_path, frozen_config, capsys):
    full = write_log(tmp_path / 'full', {1: 2.0, 20: 0.5}, {10: 40.0, 20: 55.26})
    slow = write_log(tmp_path / 'slow', {1: 2.2, 20: 0.7}, {20: 50.0}, config=frozen_config)
    code, printed, _ = plot(capsys, full, out=tmp_path / 'one.png')
    assert code == 0
    assert 'full: 20 iterations, best mIoU 55.3 at iteration 20, the last 55.3' in printed
    assert plot(capsys, full, slow, out=tmp_path / 'two.png')[0] == 0
    one, two = picture(tmp_path / 'one.png'), picture(tmp_path / 'two.png')
    assert area(one, FIRST)
    assert not area(one, SECOND)
    assert area(two, SECOND)
    assert area(one, FROZEN) < 1000 < area(two[one.shape[0] :], FROZEN)


@pytest.mark.parametrize('factor', [None, 0.1])
def test_parts_with_learning_rates_of_their_own_have_a_timeline(tmp_path, frozen_config, factor):
    cfg = Config.fromfile(frozen_config)
    cfg.custom_hooks = []
    if factor:
        cfg.optim_wrapper.paramwise_cfg = dict(custom_keys=dict(backbone=dict(lr_mult=factor)))
    cfg.dump(tmp_path / 'own.py')
    run = read_run(write_log(tmp_path / 'run', {1: 2.0}, config=tmp_path / 'own.py'))
    shown = timeline_of(run)
    if factor is None:
        assert shown is None
    else:
        rates = dict(zip(shown.parts, shown.rates[:, 0]))
        assert rates['backbone.stages[3]'] == pytest.approx(factor * rates['decode_head'])
        assert (shown.trainable == 1).all()


def test_a_resumed_run_is_one_curve_without_what_was_lost_or_left_unfinished(tmp_path):
    work_dir = tmp_path / 'run'
    write_log(work_dir, {1: 2.0, 2: 1.5, 3: 9.0}, {3: 1.0}, end='{"lr": 0.01, "loss": 1.2, "st')
    write_log(work_dir, {3: 1.2, 4: 1.0}, {4: 60.0}, start='20260101_000500')
    run = read_run(work_dir)
    assert run.values('loss') == {1: 2.0, 2: 1.5, 3: 1.2, 4: 1.0}
    assert run.values('mIoU') == {4: 60.0}


@pytest.mark.parametrize(
    ('epochs', 'logged'),
    [
        ((1, 2), [{'epoch': 1}, {'epoch': 2}]),
        ((1, 2), [{}, {}]),  # by mmseg's log processor
        ((0, 0), [{}, {}]),  # a run by iterations with mmengine's log_metric_by_epoch=True
    ],
)
def test_metrics_that_were_logged_by_epoch_stand_at_their_iteration(tmp_path, epochs, logged):
    lines = [{'loss': 2.0, 'step': 50, **logged[0]}, {'mIoU': 40.0, 'step': epochs[0]}]
    lines += [{'loss': 1.0, 'step': 100, **logged[1]}, {'mIoU': 50.0, 'step': epochs[1]}]
    log = ''.join(f'{json.dumps(line)}\n' for line in lines)
    run = read_run(write_log(tmp_path / 'run', {}, end=log))
    assert run.values('mIoU') == {50: 40.0, 100: 50.0}


@pytest.mark.parametrize(
    ('scores', 'end', 'told'),
    [
        ({1: float('nan'), 2: 40.0, 3: 30.0}, '', 'best mIoU 40.0 at iteration 2, the last 30.0'),
        ({1: 40.0, 2: float('nan')}, '', 'best mIoU 40.0 at iteration 1, the last nan'),
        ({1: float('nan')}, '', 'no validation with an mIoU'),
        ({1: 50.0}, '{"mIoU": null, "step": 2}\n', 'best mIoU 50.0 at iteration 1, the last 50.0'),
        ({}, '{"loss": null, "lr": null, "step": 2}\n{"mIoU": "?", "step": 3}\n', 'no validation'),
    ],
)
def test_values_that_are_no_numbers_are_left_out(tmp_path, capsys, scores, end, told):
    run = write_log(tmp_path / 'run', {1: 2.0, 3: float('inf')}, scores, end=end)
    code, printed, _ = plot(capsys, run, out=tmp_path / 'run.png')
    assert code == 0
    assert told in printed


def test_runs_whose_folders_have_one_name_are_told_apart(tmp_path, frozen_config, capsys):
    runs = [write_log(tmp_path / one / 'run', {20: 0.5}, config=frozen_config) for one in 'ab']
    code, printed, _ = plot(capsys, runs[0], out=tmp_path / 'one.png')
    assert (code, printed[:5]) == (0, 'run: ')
    code, printed, _ = plot(capsys, *runs, out=tmp_path / 'two.png')
    assert [line.split(':')[0] for line in printed.splitlines()[:2]] == list(map(str, runs))
    one, two = (area(picture(tmp_path / f'{name}.png'), FROZEN) for name in ('one', 'two'))
    assert two > 1.8 * one


@pytest.mark.parametrize('name', ['x', 'x.y.png', 'x.jpg', 'x.tif', 'x.webp'])
def test_the_file_that_is_told_is_written_and_written_again(tmp_path, frozen_config, capsys, name):
    run = write_log(tmp_path / 'run', {1: 2.0})
    for _ in range(2):
        assert f'written: {tmp_path / name}' in plot(capsys, run, out=tmp_path / name)[1]
        assert main(['freezing', str(frozen_config), '--out', str(tmp_path / f'f{name}')]) == 0
    for path in (tmp_path / name, tmp_path / f'f{name}'):
        assert picture(path).size


@pytest.mark.parametrize('name', [r'$\frac{', 'a$b$', '_run', '[/b]', 'a\nb', '道路'])
def test_names_are_drawn_as_they_are(tmp_path, capsys, frozen_config, recwarn, name):
    """Mathematics would be an error or other letters, and a line break a taller legend."""
    runs = [
        write_log(tmp_path / folder / name, {1: 2.0}, config=frozen_config) for folder in ('x', 'y')
    ]
    assert plot(capsys, runs[0], out=tmp_path / 'one.png')[0] == 0
    assert plot(capsys, *runs, out=tmp_path / 'two.png')[0] == 0
    assert not [warning for warning in recwarn if 'Glyph' in str(warning.message)]


def test_a_name_that_looks_like_a_variable_is_a_name_in_the_config_that_a_run_wrote(tmp_path):
    run = write_log(tmp_path / 'run', {1: 2.0})
    (run / '20260101_000000' / 'vis_data' / 'config.py').write_text(
        """classes = ('{{$V:exec("open(__file__,chr(119))")#|.*}}', '{{fileDirname}}')\n"""
    )
    config = read_run(run).read_config()
    assert config.classes[1] == '{{fileDirname}}'


@pytest.mark.parametrize(
    ('losses', 'end', 'more', 'out', 'told'),
    [
        (None, '', [], 'x.png', '{}/run holds no '),
        ({}, '{"mIoU": 5.0, "step": 1}\n', [], 'x.png', '{}/run/20260101_000000/vis_data/scalars'),
        ({1: 2.0}, '', [], 'x.jpq', '{}/x.jpq cannot be written'),
        ({1: 2.0}, '', ['--confusion', 'x.pth'], 'x.png', 'run: no vis_data/config.py beside'),
        ({1: 2.0}, '', ['{}/run', '--confusion', 'x.pth'], 'x.png', '--confusion takes one work '),
    ],
)
def test_what_cannot_be_drawn_is_one_line(tmp_path, capsys, losses, end, more, out, told):
    if losses is not None:
        write_log(tmp_path / 'run', losses, end=end)
    words = [word.format(tmp_path) for word in more]
    code, _, error = plot(capsys, tmp_path / 'run', *words, out=tmp_path / out)
    assert code == 1
    assert error.startswith(f'error: {told.format(tmp_path)}')
    assert error.count('\n') == 1
    assert not (tmp_path / out).exists()


@pytest.mark.parametrize('suffix', ['png', 'svg', 'pdf'])
def test_a_picture_is_drawn_again_but_not_over_a_file_from_elsewhere(tmp_path, suffix):
    path = tmp_path / f'curves.{suffix}'
    for _ in range(2):
        save(Figure(), path)
    before = path.read_bytes()
    with file_size_limit(100), pytest.raises(OSError, match='File too large'):
        save(Figure(), path)
    assert path.read_bytes() == before
    path.write_bytes(b'a photo')
    with pytest.raises(PspnetPluginError, match='is there already, and not from this command'):
        save(Figure(), path)
    assert path.read_bytes() == b'a photo'
