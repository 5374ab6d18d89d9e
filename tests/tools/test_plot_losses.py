"""The tool that lays the losses of runs over each other."""

import json

import pytest
from PIL import Image

from tests.helpers.processes import ROOT, run_python

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


def test_the_distance_is_relative_to_the_first_run(run, tmp_path):
    work_dirs = run('stock', [2.0, 1.0, 0.5]), run('ours', [2.0, 1.25, 0.5])
    picture = tmp_path / 'losses.png'
    code, output = run_python(TOOL, *work_dirs, '--out', picture)
    assert code == 0, output[-4000:]
    assert 'ours: at most 2.5e-01 of the loss of stock' in output
    with Image.open(picture) as opened:
        assert len(opened.convert('RGB').getcolors(1 << 20)) > 10


def test_a_folder_without_a_run_is_an_error_that_names_it(run, tmp_path):
    code, output = run_python(TOOL, tmp_path, '--out', 'x.png')
    assert code == 1
    assert output.startswith(f'error: {tmp_path} holds no')


def test_runs_without_a_common_iteration_are_an_error_that_names_them(run, tmp_path):
    work_dirs = run('stock', [2.0, 1.0]), run('ours', [0.5, 0.4], first=3)
    code, output = run_python(TOOL, *work_dirs, '--out', 'x.png')
    assert code == 1
    assert output.splitlines()[-1] == 'error: ours logged no iteration that stock logged too'
