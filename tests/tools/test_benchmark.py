"""The benchmark tool: fair comparisons, right figures, and each sub-benchmark at a tiny scale."""

import functools
import os
import runpy
import sys
from types import SimpleNamespace

import pytest
import torch
from mmseg.models.decode_heads import FCNHead, PSPHead
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors import EncoderDecoder
from PIL import Image
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pspnet_plugin import PspnetPluginError
from pspnet_plugin.heads import FactorizedPSPHead, StreamedFCNHead
from pspnet_plugin.segmentors import LabelMapEncoderDecoder
from tests.helpers.processes import ROOT

# As Python does for a script; at the end, because tools/test.py would hide the module ``test``.
sys.path.append(str(ROOT / 'tools'))

from benchmark import command, freeze, head, inputs, loss, memory, models, predict, timing, train
from benchmark.settings import Settings
from benchmark.table import ABOVE, Baseline, Quantity, Table, Wanted

TINY = {
    'head': '--channels 64 --classes 3 --sizes 8x16 7x7',
    'loss': '--classes 5 --crop 64x48 --batch 2',
    'train': '--channels 64 --classes 3 --crop 32x48',
    'predict': '--channels 64 --classes 7 --crop 64x96',
    'freeze': '--channels 64 --classes 3 --crop 32x48',
}
ROWS = {
    'head': ['stock', 'factorized', '3 x 3 conv on x'],
    'loss': ['stock', 'streamed'],
    'train': ['stock', '+ heads', '+ streamed loss', '+ channels-last', '+ kept memory'],
    'predict': ['stock', '+ heads', '+ channels-last', '+ folding', '+ strips', '+ kept memory'],
    'freeze': ['nothing frozen', 'backbone', 'frozen_stages=3', 'backbone.stages[:3]'],
}
QUANTITIES = {
    'head': [
        'forward',
        'forward + backward',
        'peak memory, forward',
        'peak memory, forward + backward',
        'kept for backward, without x',
        'x itself',
    ],
    'loss': ['loss + backward', 'peak memory'],
    'train': ['training step', 'peak memory'],
    'predict': ['file to label map', 'peak memory', 'labels equal to stock'],
    'freeze': ['training step', 'peak memory', 'kept for backward'],
}


def tiny_settings(name):
    return command.settings_from(command.parse([name, *TINY[name].split()]))


def cells(line):
    return [cell.strip() for cell in line.strip('|').split('|')]


# --- the command --------------------------------------------------------------------------------


@pytest.mark.parametrize('name', TINY)
def test_the_tool_measures_every_variant_and_writes_tables_and_a_figure(
    name, tmp_path, monkeypatch, capsys
):
    markdown, figure = tmp_path / 'tables.md', tmp_path / 'figure.png'
    options = [*TINY[name].split(), '--runs', '2', '--threads', '1']
    files = ['--markdown', str(markdown), '--plot', str(figure)]
    monkeypatch.setattr(sys, 'argv', ['benchmark.py', name, *options, *files])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / 'tools' / 'benchmark.py'), run_name='__main__')
    assert ended.value.code == 0
    assert 'medians of 2 alternating runs' in capsys.readouterr().out

    called, described, *tables = markdown.read_text().split('\n\n')
    assert called.startswith(f'`python tools/benchmark.py {name} {" ".join(options)}')
    assert torch.__version__ in described
    titles, tables = tables[::2], tables[1::2]
    assert len(titles) == (2 if name == 'head' else 1)
    for table in tables:
        lines = [cells(line) for line in table.splitlines()[2:]]
        expected = [[quantity, row] for quantity in QUANTITIES[name] for row in ROWS[name]]
        assert [line[:2] for line in lines] == expected
        assert all(' to ' in line[3] for line in lines if line[2].endswith(('ms', ' s')))
    panels = 2 if name == 'head' else len(QUANTITIES[name]) - (name == 'predict')
    with Image.open(figure) as drawn:
        assert drawn.size == (600 * panels, 480)


@pytest.mark.parametrize(('low', 'missed'), [(1.9, False), (2.1, True)])
def test_only_check_turns_a_missed_value_into_exit_code_1(low, missed, monkeypatch, capsys):
    wanted = (Wanted('time', 'fast', 'slow', low=low),)
    table = Table('Made up', MADE_UP.baselines, MADE_UP.quantities, wanted)
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


# --- tables -------------------------------------------------------------------------------------

MB = 10**6
MADE_UP = Table(
    title='Made up',
    baselines=(Baseline('slow'), Baseline(ABOVE), Baseline('limit', as_speed=False)),
    quantities=(
        Quantity('time', 's', {'slow': [4, 2, 3], 'fast': [2, 1], 'limit': [0.5]}),
        Quantity('memory', 'bytes', {'slow': [40 * MB], 'fast': [10 * MB], 'limit': [5 * MB]}),
        Quantity('equal', '%', {'slow': [100], 'fast': [99.5]}),
    ),
    wanted=(
        Wanted('time', 'fast', 'slow', low=2),
        Wanted('time', 'fast', 'limit', high=3),
        Wanted('memory', 'fast', 'slow', low=0.2, high=0.3),
        Wanted('equal', 'fast', None, low=99),
    ),
)
IN_MARKDOWN = """\
| time   | slow  | 3.00 s     | 2.00 s to 4.00 s |                |                | 6.00 x |
| time   | fast  | 1.50 s     | 1.00 s to 2.00 s | 2.00 x as fast | 2.00 x as fast | 3.00 x |
| time   | limit | 500.0 ms   |                  | 6.00 x as fast | 3.00 x as fast |        |
| memory | slow  | 40 MB      |                  |                |                | 8.00 x |
| memory | fast  | 10 MB      |                  | 0.25 x         | 0.25 x         | 2.00 x |
| memory | limit | 5.00 MB    |                  | 0.12 x         | 0.50 x         |        |
| equal  | slow  | 100.0000 % |                  |                |                |        |
| equal  | fast  | 99.5000 %  |                  |                |                |        |"""
WANTED_IN_MARKDOWN = {
    1: 'at least 2 x as fast as slow; at most 3 x that of limit',
    4: 'at least 0.2, at most 0.3 x that of slow',
    7: 'at least 99 %',
}


def test_the_markdown_says_medians_spreads_ratios_and_what_is_wanted():
    title, _, header, rule, *lines = MADE_UP.as_markdown().splitlines()
    assert title == '### Made up'
    assert set(rule) == {'|', '-'}
    assert cells(header)[-2:] == ['beside limit', 'wanted']
    assert {len(cells(line)) for line in (header, rule, *lines)} == {8}
    assert [cells(line)[:-1] for line in lines] == [cells(line) for line in IN_MARKDOWN.split('\n')]
    wanted = [cells(line)[-1] for line in lines]
    assert wanted == [WANTED_IN_MARKDOWN.get(place, '') for place in range(8)]


@pytest.mark.parametrize(
    ('wanted', 'sentence'),
    [
        (Wanted('time', 'fast', 'slow', low=2.01), 'is 2.00, wanted at least 2.01 x as fast as'),
        (Wanted('time', 'fast', 'limit', high=2.99), 'is 3.00, wanted at most 2.99 x that of limi'),
        (
            Wanted('memory', 'fast', 'slow', high=0.24),
            'is 0.25, wanted at most 0.24 x that of slow',
        ),
        (Wanted('memory', 'fast', 'slow', low=0.26), 'is 0.25, wanted at least 0.26 x that of'),
        (Wanted('equal', 'fast', None, low=99.51), 'is 99.50, wanted at least 99.51 %'),
        (
            Wanted('memory', 'limit', 'limit', high=9),
            'is unknown, wanted at most 9 x that of limit',
        ),
    ],
)
def test_what_lies_outside_its_range_is_missed_in_words(wanted, sentence):
    table = Table('Made up', MADE_UP.baselines, MADE_UP.quantities, (wanted,))
    (missed,) = table.missed()
    assert sentence in missed


def test_nothing_is_missed_within_the_ranges():
    assert MADE_UP.missed() == []


# --- what is compared ---------------------------------------------------------------------------


def test_the_heads_that_are_compared_agree():
    settings = tiny_settings('head')
    x = inputs.feature_map((8, 16), settings)
    stock, factorized = (head.build(name, settings).eval() for name in ('stock', 'factorized'))
    assert type(stock) is PSPHead
    assert type(factorized) is FactorizedPSPHead
    torch.testing.assert_close(factorized([x]), stock([x]))


def test_the_limit_is_the_convolution_of_x_with_a_bottleneck_of_its_channels():
    settings = tiny_settings('head')
    x = inputs.feature_map((8, 16), settings)
    weight = head.build('stock', settings).bottleneck.conv.weight[:, : settings.channels]
    limit = head.build(head.LIMIT, settings)
    assert limit.weight.shape == weight.shape
    torch.testing.assert_close(limit([x]), nn.functional.conv2d(x, limit.weight, padding=1))


def test_the_heads_keep_the_feature_map_and_the_stock_head_its_concatenation_too():
    settings = tiny_settings('head')
    x = settings.batch * settings.channels * 8 * 16 * 4  # bytes
    assert head.kept(head.LIMIT, (8, 16), settings) == (0, x)
    stock, factorized = (head.kept(name, (8, 16), settings) for name in ('stock', 'factorized'))
    assert stock[0] > 2 * x
    assert factorized[0] < stock[0] - x


def test_both_losses_are_the_same_number():
    stock, streamed = (loss.prepare(variant, tiny_settings('loss'))() for variant in loss.HEADS)
    assert stock > 0
    torch.testing.assert_close(streamed, stock)


@pytest.mark.parametrize(
    ('row', 'decode_head', 'auxiliary_head', 'streamed', 'channels_last'),
    [
        ('stock', PSPHead, FCNHead, False, False),
        ('+ heads', FactorizedPSPHead, StreamedFCNHead, False, False),
        ('+ streamed loss', FactorizedPSPHead, StreamedFCNHead, True, False),
        ('+ channels-last', FactorizedPSPHead, StreamedFCNHead, True, True),
        ('+ kept memory', FactorizedPSPHead, StreamedFCNHead, True, True),
    ],
)
def test_a_row_of_training_has_its_parts_and_the_loss_of_stock(
    row, decode_head, auxiliary_head, streamed, channels_last
):
    settings = tiny_settings('train')
    model = models.build(settings, models.cumulative(train.PARTS)[row])
    assert isinstance(model.decode_head, decode_head)
    assert isinstance(model.auxiliary_head, auxiliary_head)
    for module in (model.decode_head, model.auxiliary_head):
        assert (type(module).loss_by_feat is not BaseDecodeHead.loss_by_feat) == streamed
    weight = model.backbone.layer1[0].conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) == channels_last

    def loss_of(model):
        torch.manual_seed(1)  # the same dropout
        return models.training_forward(model, settings)()

    torch.testing.assert_close(loss_of(model), loss_of(models.build(settings)), rtol=1e-4, atol=0)


def test_a_training_step_updates_every_parameter():
    settings = tiny_settings('train')
    model = models.build(settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step = models.training_step(model, settings)
    for _ in range(3):
        step()
    assert not [name for name, p in model.named_parameters() if torch.equal(p, before[name])]


def test_prediction_finds_several_classes_and_nearly_the_same_with_all_parts(tmp_path):
    settings = tiny_settings('predict')
    height, width = settings.crop
    image = tmp_path / 'image.png'
    inputs.write_image(image, (2 * height, 2 * width))
    stock = predict.prepare((), str(image), settings)()
    ours = predict.prepare(predict.PARTS, str(image), settings)()
    assert stock.shape == ours.shape == (2 * height, 2 * width)
    assert len(stock.unique()) >= 3
    # One pixel in a thousand may differ: rounding decides ties, and the image is small.
    assert predict.share_equal({'stock': stock, 'ours': ours}, 'ours') >= 99.9


def test_equal_labels_are_counted_in_percent_of_the_pixels():
    stock = torch.zeros(10, 10, dtype=torch.int64)
    other = stock.clone()
    other[0, :3] = 1
    assert predict.share_equal({'stock': stock, 'other': other}, 'other') == pytest.approx(97)


@pytest.mark.parametrize(
    ('row', 'folded', 'segmentor'),
    [
        ('+ channels-last', False, EncoderDecoder),
        ('+ folding', True, EncoderDecoder),
        ('+ strips', True, LabelMapEncoderDecoder),
    ],
)
def test_a_row_of_prediction_has_its_parts(row, folded, segmentor, tmp_path):
    settings = tiny_settings('predict')
    image = tmp_path / 'image.png'
    inputs.write_image(image, settings.crop)
    parts = models.cumulative(predict.PARTS)[row]
    model = predict.build_for_prediction(parts, str(image), settings)
    norms = [module for module in model.backbone.modules() if isinstance(module, _BatchNorm)]
    assert bool(norms) != folded
    assert type(model) is segmentor
    assert model.test_cfg.get('seg_logits', True) == (segmentor is EncoderDecoder)
    weight = model.backbone.layer1[0].conv2.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


def trained(row):
    """The parameters that are trained, and the batch norms that update their statistics."""
    model = freeze.build_frozen(freeze.ROWS[row], tiny_settings('freeze')).train()
    modules = model.named_modules()
    return (
        {name for name, parameter in model.named_parameters() if parameter.requires_grad},
        {name for name, m in modules if isinstance(m, _BatchNorm) and m.training},
    )


def test_the_hook_freezes_what_frozen_stages_freezes():
    assert trained(freeze.OURS) == trained(freeze.STOCK) != trained(freeze.FULL)
    for names in trained(freeze.BACKBONE):
        assert {name.split('.')[0] for name in names} == {'decode_head', 'auxiliary_head'}


def test_half_precision_runs_under_autocast():
    settings = Settings(dtype='bfloat16', batch=2, channels=64, classes=3)
    x = inputs.feature_map((4, 4), settings)
    assert x.dtype == torch.bfloat16
    with settings.autocast():
        assert head.build('stock', settings)([x]).dtype == torch.bfloat16
    head.prepare_both('factorized', (4, 4), settings)()


def test_compile_compiles(monkeypatch):
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))
    frames = torch._dynamo.utils.counters['frames']
    for compiled in (False, True):
        frames.clear()
        settings = Settings(compile=compiled, batch=2, channels=64, classes=3)
        head.prepare_forward('factorized', (5, 5), settings)()
        assert bool(frames['ok']) == compiled


# --- time and memory ----------------------------------------------------------------------------


def test_variants_run_in_turn_and_each_time_is_its_own(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(timing, 'time', SimpleNamespace(perf_counter=lambda: clock[0]))

    def step(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds + len(order)

        return run

    steps = {'a': step('a', 100), 'b': step('b', 200), 'c': step('c', 300)}
    seconds = timing.time_alternately(steps, Settings(runs=2))
    assert ''.join(order) == 'abc' * 3
    assert seconds == {'a': [104, 107], 'b': [205, 208], 'c': [306, 309]}


def test_memory_is_kept_for_the_steps_that_are_named_only(monkeypatch):
    order = []

    def noting(name):
        return lambda: order.append(name)

    monkeypatch.setattr(timing, 'keep_freed_memory', noting('KEEP'))
    monkeypatch.setattr(timing, 'stop_keeping_freed_memory', noting('STOP'))
    steps = {name: noting(name) for name in ('stock', 'ours')}
    seconds = timing.time_alternately(steps, Settings(runs=1), keeping=('ours',))
    # After each switch a step runs once untimed.
    ours = ['KEEP', 'ours', 'ours', 'STOP']
    assert order == ['stock', *ours, 'stock', 'stock', *ours]
    assert [len(runs) for runs in seconds.values()] == [1, 1]


def allocating(size):
    """A preparation: its step allocates ``size`` bytes."""
    return lambda: torch.ones(size, dtype=torch.uint8)


def test_the_peak_counts_what_the_step_allocates():
    sizes = {'small': 20 * MB, 'large': 400 * MB}
    preparations = {name: functools.partial(allocating, size) for name, size in sizes.items()}
    (small,), (large,) = memory.peak_memory(preparations, Settings()).values()
    assert small < 200 * MB < large


def die():
    os._exit(9)


def test_a_child_that_dies_is_one_clear_error():
    with pytest.raises(PspnetPluginError, match='smaller --batch'):
        memory.peak_memory({'killed': die}, Settings())


def refuse():
    raise ValueError('a map of no pixels')


def test_an_error_in_the_child_arrives_as_it_is():
    with pytest.raises(ValueError, match='a map of no pixels'):
        memory.peak_memory({'refused': refuse}, Settings())


def test_kept_for_backward_counts_each_storage_once():
    x = torch.rand(1000, dtype=torch.float64, requires_grad=True)
    assert memory.kept_for_backward(lambda: x.sin() + x.cos()) == 8000
    assert memory.kept_for_backward(lambda: x[:10] * x[10:20]) == 8000
    assert memory.kept_for_backward(lambda: x.exp().sin()) == 8000  # exp's result, kept by both
    assert memory.kept_for_backward(lambda: x.sin().exp().sin()) == 16000
    assert memory.kept_for_backward(lambda: x + 1) == 0


def test_kept_for_backward_leaves_out_parameters_and_what_it_is_told():
    layer = nn.Linear(100, 10, dtype=torch.float64)
    x = torch.rand(7, 100, dtype=torch.float64, requires_grad=True)
    own = memory.state_of(layer)
    assert memory.kept_for_backward(lambda: layer(x)) == 8 * (7 * 100 + 100 * 10)
    assert memory.kept_for_backward(lambda: layer(x), own) == 8 * 7 * 100
    assert memory.kept_for_backward(lambda: layer(x), [*own, x]) == 0


def test_kept_for_backward_forgets_a_graph_that_the_forward_pass_dropped():
    x = torch.rand(1000, requires_grad=True)

    def forward():
        x.exp()
        return x.sin()

    assert memory.kept_for_backward(forward) == 4000
