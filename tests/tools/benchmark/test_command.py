"""``pspnet benchmark`` at a tiny scale: its tables, and what it says of wrong arguments."""

import signal
from threading import Timer

import pytest
import torch
from benchmark import command, networks
from benchmark.measuring import DTYPES, Case, Settings, measure_cases

from pspnet_plugin.app.commands import main
from pspnet_plugin.errors import PspnetPluginError
from tests.helpers.processes import ROOT, run_script

PSPNET_R18 = 'mmseg::pspnet/pspnet_r18-d8_4xb2-80k_cityscapes-512x1024.py'
ONCE = ['--runs', '1', '--markdown']
LAYOUTS = ['contiguous', 'channels-last']
PASSES = ['forward', 'forward + backward']
STOCK_AND_OURS = ['stock', 'ours']
TRAINING = ['stock', '+ heads', '+ chunked loss', '+ channels-last', '+ kept memory']
PREDICTION = ['stock', '+ heads', '+ channels-last', '+ folding', '+ strips', '+ kept memory']


def table_of(printed: str) -> list[list[str]]:
    """The cells of a Markdown table's lines, without its header."""
    lines = [line for line in printed.splitlines() if line.startswith('|')]
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in lines[2:]]


@pytest.mark.parametrize(
    ('arguments', 'cases', 'variants'),
    [
        ('head --channels 64 --sizes 8x16 7x7', 2 * PASSES, [*STOCK_AND_OURS, 'limit']),
        ('heads --crop 32x32', 4 * PASSES, STOCK_AND_OURS),
        ('loss --classes 5 --crop 64x48', ['5 classes, batch 4 of 64 x 48'], STOCK_AND_OURS),
        (f'train --config {PSPNET_R18} --crop 32x48', ['32 x 48'], TRAINING),
        (
            f'train --config {PSPNET_R18} --crop 32x48 --channels-last',
            ['32 x 48'],
            [part for part in TRAINING if part != '+ channels-last'],
        ),
    ],
    ids=lambda value: value.partition(' ')[0] if isinstance(value, str) else '',
)
def test_each_row_is_compared_with_stock_in_one_table(arguments, cases, variants, capsys):
    assert run_script(ROOT / 'tools' / 'benchmark.py', *arguments.split(), *ONCE) == 0
    printed = capsys.readouterr().out
    assert torch.__version__ in printed
    rows = table_of(printed)
    assert [row[1].partition(':')[0] for row in rows] == variants * len(cases)
    assert [row[0].endswith(cases[n // len(variants)]) for n, row in enumerate(rows)]
    for _, variant, median, spread, ratio, memory, memory_ratio in rows:
        assert median.endswith('s')
        assert ' to ' in spread
        assert memory.endswith('MB')
        assert ratio.endswith('x as fast') == memory_ratio.endswith('x') == (variant != 'stock')


def test_prediction_is_compared_by_labels_too_also_in_other_runtimes(capsys):
    arguments = ['predict', '--config', PSPNET_R18, '--crop', '64x96', *ONCE]
    assert main(['benchmark', *arguments]) == 0  # as from the tool
    rows = table_of(capsys.readouterr().out)
    by_parts, others = rows[:6], rows[6:]
    assert [row[1] for row in by_parts] == PREDICTION
    for runtime in ('ONNX Runtime', 'OpenVINO float32'):
        variants = [row[1] for row in others if row[0].endswith(f', {runtime}')]
        assert variants == [*STOCK_AND_OURS, 'ours, --winograd']
    for measured, *_, equal in rows:
        # One pixel in a thousand may differ: rounding decides ties, and the image is small.
        assert float(equal.removesuffix(' %')) >= (80 if 'bfloat16' in measured else 99.9)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ('', 'required: NAME'),
        ('head --sizes 64', "--sizes: invalid size value: '64'"),
        ('head --sizes 0x5', "--sizes: invalid size value: '0x5'"),
        ('loss --runs 0', "--runs: invalid positive value: '0'"),
        ('predict --batch 2', 'unrecognized arguments: --batch 2'),
        ('train --dtype int8', "--dtype: invalid choice: 'int8'"),
        ('head --device cuda:99', "--device: invalid choice: 'cuda:99'"),
    ],
)
def test_wrong_argument_is_refused_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as refused:
        main(['benchmark', *arguments.split()])
    assert refused.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_config_that_is_not_there_is_one_line(capsys):
    assert main(['benchmark', 'train', '--config', 'nothing.py']) == 1
    assert capsys.readouterr().err.startswith('error: The config nothing.py is no file.')


def test_case_that_fails_is_named_and_the_others_go_on(capsys):
    arguments = ['head', '--batch', '1', '--channels', '64', '--sizes', '7x7', *ONCE]
    assert main(['benchmark', *arguments]) == 1
    output = capsys.readouterr()
    assert [row[0] for row in table_of(output.out)] == 3 * ['PSP head, x of 7 x 7, forward']
    assert output.err.splitlines()[-1].startswith(
        'PSP head, x of 7 x 7, forward + backward failed: Expected more than 1 value per channel'
    )


def test_gpu_is_measured_in_each_precision_and_layout():
    given = f'gpu --config {PSPNET_R18} --crop 32x64 --sizes 8x8 --markdown'.split()
    options = {**vars(command.parse(given)), 'device': 'cuda'}
    del options['benchmark'], options['markdown']
    settings = Settings(**options)
    assert {settings: 'the weights of a network'}
    settings.apply()  # also where torch wants the number of a device
    cases = list(command.gpu_cases(settings))
    ways = {tuple(case.label.rsplit(', ', 3)[1:]) for case in cases}
    eager = {(dtype, layout, 'eager') for dtype in DTYPES for layout in LAYOUTS}
    assert ways == eager | {('float16', layout, 'compiled') for layout in LAYOUTS}
    measured = [case.label.rsplit(', ', 3)[0] for case in cases[: len(cases) // len(ways)]]
    for name in (
        'training step of',
        'PSP head',
        'UPerHead',
        'loss + backward',
        'file to label map',
    ):
        assert any(label.startswith(name) for label in measured), name


def raises(error):
    raise error


def test_rows_before_an_interrupt_are_kept_and_an_error_of_the_plugin_fails_its_row_alone():
    steps = {'stock': lambda: None}
    cases = [
        Case('first', lambda: steps),
        Case('second', lambda: raises(PspnetPluginError('not folded'))),
        Case('third', lambda: steps),
        Case('fourth', lambda: raises(KeyboardInterrupt())),
        Case('fifth', lambda: steps),
    ]
    failures = []
    rows = measure_cases(cases, Settings(runs=1), failures)
    assert [row.time.label for row in rows] == ['first', 'third']
    assert failures[0] == 'second failed: not folded'
    assert 'what comes after these 2 rows' in failures[1]


def test_benchmark_of_a_gpu_ends_in_time_with_its_table(monkeypatch, capsys):
    started = []

    def time_is_over():
        (end,) = started
        assert (end.interval, end.args) == (command.SECONDS, [signal.SIGINT])
        raise KeyboardInterrupt  # a real signal may reach the test runner

    def cases():
        yield Case('quick', lambda: {'stock': lambda: None})
        yield Case('compiles', lambda: {'stock': time_is_over})

    monkeypatch.setattr(Timer, 'start', lambda end: started.append(end))
    monkeypatch.setattr(signal, 'signal', lambda number, handler: None)
    monkeypatch.setattr(Settings, 'on_gpu', property(lambda settings: True))
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda: 'a GPU')
    for name in ('memory_allocated', 'reset_peak_memory_stats', 'max_memory_allocated'):
        monkeypatch.setattr(torch.cuda, name, lambda: 0)
    monkeypatch.setattr(networks, 'largest_batch', lambda settings, parts: 3 + len(parts))
    monkeypatch.setitem(command.BENCHMARKS, 'gpu', (lambda settings: cases(), {'runs': 1}))
    assert command.main(['gpu', '--markdown']) == 1
    output = capsys.readouterr()
    assert 'a GPU' in output.out.splitlines()[0]
    assert 'Largest batch of 512 x 1024 in float16, stock: 3' in output.out
    assert [row[0] for row in table_of(output.out)] == ['quick']
    assert 'interrupted' in output.err


@pytest.mark.parametrize('error', [torch.cuda.OutOfMemoryError, RuntimeError, ValueError])
@pytest.mark.parametrize(('memory', 'largest'), [(30, '28'), (2, '0, no memory')])
def test_largest_batch_fits_twice_whatever_error_says_that_it_does_not(
    memory, largest, error, monkeypatch
):
    """The second step has the optimizer's state; cuDNN and batch norms raise other errors."""

    def training_step(settings, parts):
        left = [memory]

        def step():
            left[0] -= 1  # what the state takes
            if settings.batch > left[0]:
                raise error('no memory')

        return step

    monkeypatch.setattr(networks, 'training_step', training_step)
    assert networks.largest_batch(Settings(device='cuda'), ()) == largest
