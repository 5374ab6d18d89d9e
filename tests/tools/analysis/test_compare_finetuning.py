"""The tool that compares recipes of fine-tuning on few and on many labelled images."""

import itertools
import json

import pytest

from tests.helpers.processes import ROOT, load_script, run_script

TOOL = ROOT / 'tools' / 'analysis' / 'compare_finetuning.py'
TIME_AND_MEMORY = {
    'full': ([100, 150], [900, 1000]),
    'frozen_stem': ([25, 25], [500, 500]),
}
TILES = 96  # for training
MIOU = {  # of two seeds, after 10 and after 20 iterations
    ('full', 3): [{'10': 55.0, '20': 60.0}, {'10': 45.1, '20': 62.0}],
    ('full', 12): [{'10': 50.0, '20': 70.0}, {'10': 51.0, '20': 70.0}],
    ('frozen_stem', 3): [{'10': 40.0, '20': 50.04}, {'10': 40.0, '20': 50.06}],
    ('frozen_stem', 12): [{'10': 52.0, '20': 51.0}, {'10': 41.0, '20': 53.0}],
}


@pytest.fixture
def finished(tmp_path, bluemarble, monkeypatch):
    """A work folder in which all runs of ``MIOU`` have finished."""
    (tmp_path / 'data').mkdir()
    (tmp_path / 'data' / 'bluemarble').symlink_to(bluemarble)
    monkeypatch.chdir(tmp_path)
    for (recipe, count), seed in itertools.product(MIOU, (0, 1)):
        folder = tmp_path / f'{recipe}_{count}_images_seed_{seed}'
        folder.mkdir()
        time, memory = TIME_AND_MEMORY[recipe]
        result = {'mIoU': MIOU[recipe, count][seed], 'time': time[seed], 'memory': memory[seed]}
        images = ','.join(str(index * TILES // count) for index in range(count))
        indices = f'train_dataloader.dataset.indices=[{images}]'
        result['options'] = [f'randomness.seed={seed}', indices]
        (folder / 'result.json').write_text(json.dumps(result))
    return tmp_path


def test_finished_runs_are_compared_by_mean_and_range_in_markdown(finished, capsys):
    grid = ['--labelled', 3, 12, '--seeds', 0, 1, '--work-dir', finished, '--jobs', 2]
    figure = finished / 'figure.png'
    assert run_script(TOOL, 'full', 'frozen_stem', *grid, '--plot', figure) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith('|')]
    table = [[cell.strip() for cell in line.strip('|').split('|')] for line in printed]
    ious = [f'{count} images' for count in (3, 12)]
    reached = 'as good as frozen_stem at iteration'
    assert table[0] == ['recipe', *ious, reached, 'processor time (s)', 'peak memory (MB)']
    ends = ['61.0 (60.0 to 62.0)', '70.0 (70.0 to 70.0)']
    assert table[2] == ['full', *ends, '10, 20', '125 (100 to 150)', '950 (900 to 1000)']
    ends = ['50.0 (50.0 to 50.1)', '52.0 (51.0 to 53.0)']
    assert table[3] == ['frozen_stem', *ends, '20, 20', '25 (25 to 25)', '500 (500 to 500)']
    assert figure.is_file()


def test_wrong_numbers_of_images_other_options_and_failed_runs_are_named(finished):
    options = ['--seeds', 0, '--work-dir', finished]
    said = run_script(TOOL, 'full', '--labelled', 3, TILES + 1, *options)
    assert said == f'error: --labelled {TILES + 1}: the training split has {TILES} labelled images'
    said = run_script(TOOL, 'full', '--labelled', 3, *options, '--cfg-options', 'model.type=Other')
    assert 'full_3_images_seed_0 has a run with other options' in said
    broken = ['--labelled', 5, '--cfg-options', 'model.type=Nothing']
    said = run_script(TOOL, 'full', *options, *broken)
    assert 'full_5_images_seed_0 failed' in said
    assert 'Nothing' in said


def test_labelled_images_are_of_all_longitudes_and_few_are_among_many():
    spread = load_script(TOOL).spread
    few, many = spread(6, 96), spread(12, 96)
    assert set(few) < set(many)
    assert many == list(range(0, 96, 8))
