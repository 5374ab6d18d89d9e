"""The command line of the benchmark, and each sub-benchmark at a tiny scale."""

import pytest
import torch
from benchmark import command, heads, winograd
from benchmark.table import Baseline, Quantity, Table, Wanted
from PIL import Image

from tests.helpers.processes import ROOT, run_script

TINY = {
    'head': '--channels 64 --classes 3 --sizes 8x16 7x7',
    'heads': '--crop 32x32',
    'loss': '--classes 5 --crop 64x48 --batch 2',
    'train': '--channels 64 --classes 3 --crop 32x48',
    'predict': '--channels 64 --classes 7 --crop 64x96',
    'folder': '--channels 64 --classes 7 --crop 64x96',
    'freeze': '--channels 64 --classes 3 --crop 32x48',
    'winograd': '--sizes 4x5',
}
ROWS = {
    'head': ['stock', 'factorized', '3 x 3 conv on x'],
    'heads': ['stock', 'factorized'],
    'loss': ['stock', 'streamed'],
    'train': ['stock', '+ heads', '+ streamed loss', '+ channels-last', '+ kept memory'],
    'predict': ['stock', '+ heads', '+ channels-last', '+ folding', '+ strips', '+ kept memory'],
    'folder': ['stock', 'pspnet predict'],
    'freeze': ['nothing frozen', 'backbone', 'frozen_stages=3', 'backbone.stages[:3]'],
    'winograd': ['direct', 'tiles'],
}
QUANTITIES = {
    'head': [
        'forward',
        'forward + backward',
        'peak memory, forward',
        'peak memory, forward + backward',
        'kept for backward, without the maps',
        'the maps',
    ],
    'heads': [
        'forward',
        'forward + backward',
        'kept for backward, without the maps',
        'the maps',
    ],
    'loss': ['loss + backward', 'peak memory'],
    'train': ['training step', 'peak memory'],
    'predict': ['file to label map', 'peak memory', 'labels equal to stock'],
    'folder': ['files to files', 'labels equal to stock'],
    'freeze': ['training step', 'peak memory', 'kept for backward'],
    'winograd': ['64 to 64 channels, forward', '64 to 64 channels, forward + backward'],
}


@pytest.mark.parametrize('name', TINY)
def test_the_tool_measures_every_variant_and_writes_tables_and_a_figure(
    name, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(winograd, 'CHANNELS', ((64, 64),))
    monkeypatch.delitem(heads.CONFIGS, 'UPerHead of Swin-T')  # wide
    monkeypatch.delitem(heads.CONFIGS, 'SegformerHead of MiT-B2')
    markdown, figure = tmp_path / 'tables.md', tmp_path / 'figure.png'
    options = [*TINY[name].split(), '--runs', '2', '--threads', '1']
    files = ['--markdown', markdown, '--plot', figure]
    assert run_script(ROOT / 'tools' / 'benchmark.py', name, *options, *files) == 0
    assert 'medians of 2 alternating runs' in capsys.readouterr().out

    called, described, *tables = markdown.read_text().split('\n\n')
    assert called.startswith(f'`python tools/benchmark.py {name} {" ".join(options)}')
    assert torch.__version__ in described
    titles, tables = tables[::2], tables[1::2]
    assert len(titles) == {'head': 2, 'heads': 4, 'predict': 2, 'winograd': 2}.get(name, 1)
    if name == 'predict':  # The rows of the other runtimes depend on what is installed.
        del tables[1]
    for table in tables:
        lines = [
            [cell.strip() for cell in line.strip('|').split('|')] for line in table.splitlines()[2:]
        ]
        expected = [[quantity, row] for quantity in QUANTITIES[name] for row in ROWS[name]]
        assert [line[:2] for line in lines] == expected
        assert all(' to ' in line[3] for line in lines if line[2].endswith(('ms', ' s')))
    panels = 2 if name == 'head' else len(QUANTITIES[name]) - (name in ('predict', 'folder'))
    with Image.open(figure) as drawn:
        assert drawn.size == (600 * panels, 480)


@pytest.mark.parametrize(('low', 'missed'), [(1.9, False), (2.1, True)])
def test_only_check_turns_a_missed_value_into_exit_code_1(low, missed, monkeypatch, capsys):
    times = Quantity('time', 's', {'slow': [4, 2, 3], 'fast': [2, 1]})
    wanted = Wanted('time', 'fast', 'slow', low=low)
    table = Table('Made up', (Baseline('slow'),), (times,), (wanted,))
    entry = command.BENCHMARKS['loss']._replace(measure=lambda settings: [table])
    monkeypatch.setitem(command.BENCHMARKS, 'loss', entry)
    assert command.main(['loss']) == 0
    assert 'missed' not in capsys.readouterr().out
    assert command.main(['loss', '--check']) == missed
    assert ('missed: Made up' in capsys.readouterr().out) == missed


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('', 'required'),
        ('head --sizes 64', "invalid size value: '64'"),
        ('head --sizes 0x5', 'invalid size value'),
        ('train --channels 100', 'not a multiple of 64'),
        ('train --batch 1', 'at least 2'),
        ('loss --runs 0', 'invalid positive value'),
        ('predict --batch 2', 'unrecognized arguments'),
        ('head --device cuda', 'finds no CUDA GPU'),
    ],
)
def test_a_wrong_command_line_is_refused_in_words(arguments, message, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit) as refused:
        command.main(arguments.split())
    assert refused.value.code == 2
    assert message in capsys.readouterr().err
