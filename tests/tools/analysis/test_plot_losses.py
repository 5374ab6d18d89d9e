"""The tool that lays the losses of runs over each other."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers.processes import ROOT, run_script

TOOL = ROOT / 'tools' / 'analysis' / 'plot_losses.py'


@pytest.fixture
def run(tmp_path):
    def write(name, losses, first=1):
        folder = tmp_path / name / '20260101_000000' / 'vis_data'
        folder.mkdir(parents=True)
        lines = [{'step': step, 'loss': loss} for step, loss in enumerate(losses, first)]
        lines.append({'step': len(losses), 'mIoU': 50.0})
        (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
        return tmp_path / name

    return write


def test_the_distance_is_relative_to_the_first_run(run, tmp_path, capsys):
    work_dirs = run('stock', [2.0, 1.0, 0.5]), run('ours', [2.0, 1.25, 0.5])
    assert run_script(TOOL, *work_dirs, '--out', tmp_path / 'losses.png') == 0
    assert 'ours: at most 2.5e-01 of the loss of stock' in capsys.readouterr().out


def test_the_figure_shows_the_second_run_above_and_its_distance_below(run, tmp_path):
    stock, ours = run('stock', [2.0, 1.0, 0.5]), run('ours', [2.2, 1.25, 0.6])
    drawn = []
    for work_dirs in ([stock], [stock, ours]):
        path = tmp_path / f'{len(work_dirs)}.png'
        assert run_script(TOOL, *work_dirs, '--out', path) == 0
        with Image.open(path) as image:
            drawn.append(np.asarray(image.convert('RGB')))
    alone, both = drawn
    assert alone.shape == both.shape == (600, 800, 3)
    first, second = (31, 119, 180), (255, 127, 14)  # matplotlib's first two colours
    assert shows(alone[:380], first)
    assert not shows(alone, second)
    assert shows(both[:380], second)
    assert not shows(alone[420:], first)
    assert shows(both[420:], first)


def shows(image, colour):
    return (image == colour).all(axis=-1).any()


def test_a_folder_without_a_run_is_an_error_that_names_it(tmp_path):
    error = run_script(TOOL, tmp_path, '--out', tmp_path / 'x.png')
    assert error.startswith(f'error: {tmp_path} holds no')


def test_runs_without_a_common_iteration_are_an_error_that_names_them(run, tmp_path):
    work_dirs = run('stock', [2.0, 1.0]), run('ours', [0.5, 0.4], first=3)
    error = run_script(TOOL, *work_dirs, '--out', tmp_path / 'x.png')
    assert error == 'error: ours logged no iteration that stock logged too'
