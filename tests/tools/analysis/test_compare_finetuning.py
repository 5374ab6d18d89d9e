"""The tool that compares recipes of fine-tuning."""

import json

from tests.helpers.processes import ROOT, run_script

TOOL = ROOT / 'tools' / 'analysis' / 'compare_finetuning.py'
FINISHED = {
    'full_0': {'mIoU': 60.0, 'time': 1.0, 'memory': 900},
    'full_1': {'mIoU': 62.0, 'time': 1.5, 'memory': 1000},
    'frozen_stem_0': {'mIoU': 50.04, 'time': 0.25, 'memory': 500},
    'frozen_stem_1': {'mIoU': 50.06, 'time': 0.25, 'memory': 500},
}


def test_finished_runs_are_compared_by_mean_and_range_in_markdown(tmp_path, capsys):
    for name, result in FINISHED.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / 'result.json').write_text(json.dumps(result))
    options = ['--seeds', 0, 1, '--work-dir', tmp_path]
    assert run_script(TOOL, 'full', 'frozen_stem', *options) == 0
    printed = capsys.readouterr().out.strip().splitlines()
    table = [[cell.strip() for cell in line.strip('|').split('|')] for line in printed]
    assert table[0] == ['recipe', 'mIoU (%)', 's / iteration', 'peak memory (MB)']
    assert all(set(cell) == {'-'} for cell in table[1])
    assert table[2:] == [
        ['full', '61.0 (60.0 to 62.0)', '1.25 (1.00 to 1.50)', '950 (900 to 1000)'],
        ['frozen_stem', '50.0 (50.0 to 50.1)', '0.25 (0.25 to 0.25)', '500 (500 to 500)'],
    ]
