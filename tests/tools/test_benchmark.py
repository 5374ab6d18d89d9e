"""The benchmark tool: what it counts, how it compares, and each sub-benchmark at a tiny scale."""

import functools
import os
import sys
from types import SimpleNamespace

import numpy as np
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
from tests.helpers.processes import ROOT, run_python

# As Python does for a script; at the end, because tools/test.py would hide the module ``test``.
sys.path.append(str(ROOT / 'tools'))

from benchmark import command as benchmark
from benchmark import freeze, head, loss, measuring, models, predict, train
from benchmark.settings import Settings
from benchmark.table import ABOVE, Beside, Quantity, Table, Wanted

TINY = {
    'head': '--channels 64 --classes 3 --sizes 8x16 7x7 --runs 2',
    'loss': '--classes 5 --crop 64x48 --batch 2 --runs 2',
    'train': '--channels 64 --classes 3 --crop 32x48 --runs 2',
    'predict': '--channels 64 --classes 7 --crop 64x96 --runs 2',
    'freeze': '--channels 64 --classes 3 --crop 32x48 --runs 2',
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
MB = 10**6


def tiny_settings(name):
    return benchmark.settings_from(benchmark.parse([name, *TINY[name].split()]))


@functools.cache
def measured(name):
    return list(benchmark.BENCHMARKS[name].measure(tiny_settings(name)))


# --- the sub-benchmarks -------------------------------------------------------------------------


@pytest.mark.parametrize('name', TINY)
def test_every_quantity_is_measured_of_every_variant(name):
    tables = measured(name)
    assert len(tables) == (2 if name == 'head' else 1)
    for table in tables:
        assert [quantity.name for quantity in table.quantities] == QUANTITIES[name]
        for quantity in table.quantities:
            assert list(quantity.values) == ROWS[name]
            runs = 2 if quantity.unit == 's' else 1
            assert {len(values) for values in quantity.values.values()} == {runs}
            assert all(min(values) >= 0 for values in quantity.values.values())


def compared(table, quantity):
    """Every ratio that a table has to show: the row, beside what, and the row compared with."""
    rows = list(quantity.values)
    for beside in table.beside:
        for above, row in zip([None, *rows], rows):
            other = above if beside.row == ABOVE else beside.row
            if other not in (None, row) and quantity.unit != '%':
                yield row, beside, other


@pytest.mark.parametrize('name', TINY)
def test_every_ratio_is_the_quotient_of_two_medians_of_its_table(name):
    for table in measured(name):
        for quantity in table.quantities:
            shown = {
                (row, beside): ratio
                for row in quantity.values
                for beside in table.beside
                if (ratio := table.ratio(quantity, row, beside)) is not None
            }
            for row, beside, other in compared(table, quantity):
                own, others = (np.median(quantity.values[name]) for name in (row, other))
                if others == 0:
                    continue
                speed = quantity.unit == 's' and beside.as_speed
                quotient = others / own if speed else own / others
                assert shown.pop((row, beside)) == pytest.approx(quotient)
            assert not shown


@pytest.mark.parametrize('name', TINY)
def test_what_is_wanted_names_rows_and_quantities_that_exist(name):
    default = Settings(**benchmark.BENCHMARKS[name].defaults)
    wanted = sum(head.WANTED.values(), ()) if name == 'head' else measured(name)[0].wanted
    assert wanted
    for one in wanted:
        assert one.quantity in QUANTITIES[name]
        assert one.row in ROWS[name]
        assert one.beside in (None, *ROWS[name])
    if name == 'head':
        assert set(head.WANTED) == set(default.sizes)


def test_the_convolution_alone_keeps_x_and_nothing_else():
    settings = tiny_settings('head')
    table = measured('head')[0]
    height, width = settings.sizes[0]
    x = settings.batch * settings.channels * height * width * 4
    assert table.quantity('x itself').median(head.LIMIT) == x
    assert table.quantity(head.KEPT).median(head.LIMIT) == 0


def test_the_stock_head_keeps_its_concatenation():
    table = measured('head')[0]
    x = table.quantity('x itself').median('stock')
    kept = table.quantity(head.KEPT)
    assert kept.median('stock') > 2 * x
    assert kept.median('factorized') < kept.median('stock') - x


def test_the_heads_that_are_compared_agree():
    settings = tiny_settings('head')
    x = head.feature_map((8, 16), settings)
    stock, factorized = (head.build(name, settings).eval() for name in ('stock', 'factorized'))
    assert type(stock) is PSPHead
    assert type(factorized) is FactorizedPSPHead
    torch.testing.assert_close(factorized([x]), stock([x]))


def test_the_limit_is_the_part_of_the_bottleneck_that_reads_x():
    settings = tiny_settings('head')
    bottleneck = head.build('stock', settings).bottleneck.conv
    limit = head.build(head.LIMIT, settings)
    assert limit.weight.shape == bottleneck.weight[:, : settings.channels].shape
    x = head.feature_map((8, 16), settings)
    assert limit([x]).shape[2:] == x.shape[2:]


def test_each_part_is_what_its_row_says():
    settings = tiny_settings('train')
    rows = train.variants(train.PARTS)
    built = [models.build(settings, parts) for parts in rows.values()]
    for model, decode_head, auxiliary_head, streamed in zip(
        built,
        [PSPHead] + 4 * [FactorizedPSPHead],
        [FCNHead] + 4 * [StreamedFCNHead],
        [False, False, True, True, True],
    ):
        assert type(model) is EncoderDecoder
        assert isinstance(model.decode_head, decode_head)
        assert isinstance(model.auxiliary_head, auxiliary_head)
        for module in (model.decode_head, model.auxiliary_head):
            stock_loss = type(module).loss_by_feat is BaseDecodeHead.loss_by_feat
            assert streamed == (not stock_loss)
    weights = [model.backbone.layer1[0].conv2.weight for model in built]
    channels_last = [w.is_contiguous(memory_format=torch.channels_last) for w in weights]
    assert channels_last == [False, False, False, True, True]
    with_strips = models.build(settings, (models.STRIPS,))
    assert type(with_strips) is LabelMapEncoderDecoder
    assert with_strips.test_cfg.seg_logits is False


def test_every_variant_computes_the_same_loss():
    settings = tiny_settings('train')
    losses = []
    for parts in train.variants(train.PARTS).values():
        forward = models.training_forward(models.build(settings, parts), settings)
        torch.manual_seed(1)  # for the dropout
        losses.append(forward().item())
    assert losses[0] > 0
    assert losses == pytest.approx([losses[0]] * 5, rel=1e-4)


def test_a_training_step_updates_every_parameter():
    settings = tiny_settings('train')
    model = models.build(settings)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    step = models.training_step(model, settings)
    for _ in range(3):
        step()
    same = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert not same


def test_prediction_finds_several_classes_and_nearly_the_same_with_all_parts(tmp_path):
    settings = tiny_settings('predict')
    picture = tmp_path / 'picture.png'
    height, width = settings.crop
    predict.write_picture(picture, (2 * height, 2 * width))
    stock = predict.prepare((), str(picture), settings)()
    ours = predict.prepare(predict.PARTS, str(picture), settings)()
    assert stock.shape == ours.shape == (2 * height, 2 * width)
    assert len(stock.unique()) >= 3
    # One pixel in a thousand: the picture is small, and float noise decides ties.
    assert predict.share_equal({'stock': stock, 'ours': ours}, 'ours') >= 99.9


def test_equal_labels_are_counted_in_percent_of_the_pixels():
    stock = torch.zeros(10, 10, dtype=torch.int64)
    other = stock.clone()
    other[0, :3] = 1
    assert predict.share_equal({'stock': stock, 'other': other}, 'other') == pytest.approx(97)


def test_folding_takes_the_batch_norms_out(tmp_path, monkeypatch):
    settings = tiny_settings('predict')
    picture = tmp_path / 'picture.png'
    predict.write_picture(picture, settings.crop)
    run = []
    monkeypatch.setattr(predict, 'inference_model', lambda model, path: run.append(model))
    for parts in ((), (predict.FOLDING,)):
        with pytest.raises(AttributeError):  # the stand-in for the inference predicts nothing
            predict.prepare(parts, str(picture), settings)()
    norms = [sum(isinstance(m, _BatchNorm) for m in model.backbone.modules()) for model in run]
    assert norms[0] > 50
    assert norms[1] == 0


def test_the_hook_freezes_what_frozen_stages_freezes():
    settings = tiny_settings('freeze')
    stock, ours = (
        freeze.build_frozen(freeze.ROWS[row], settings).train()
        for row in (freeze.STOCK, freeze.OURS)
    )

    def state(model):
        trained = {name for name, p in model.named_parameters() if p.requires_grad}
        with_statistics = {
            name for name, m in model.named_modules() if isinstance(m, _BatchNorm) and m.training
        }
        return trained, with_statistics

    assert state(ours) == state(stock)
    assert state(ours) != state(freeze.build_frozen(freeze.ROWS[freeze.FULL], settings))
    kept = measured('freeze')[0].quantity(freeze.KEPT)
    assert kept.median(freeze.OURS) == kept.median(freeze.STOCK)
    assert kept.median(freeze.BACKBONE) < kept.median(freeze.OURS) < kept.median(freeze.FULL)


def test_a_frozen_backbone_gets_no_gradient():
    settings = tiny_settings('freeze')
    model = freeze.build_frozen(freeze.ROWS[freeze.BACKBONE], settings)
    models.training_forward(model, settings)().backward()
    with_gradient = {
        name.split('.')[0] for name, p in model.named_parameters() if p.grad is not None
    }
    assert with_gradient == {'decode_head', 'auxiliary_head'}


def test_both_losses_are_the_same_number(monkeypatch):
    settings = tiny_settings('loss')
    totals = []
    backward = torch.Tensor.backward
    monkeypatch.setattr(
        torch.Tensor, 'backward', lambda self: (totals.append(self.item()), backward(self))
    )
    for variant in loss.HEADS:
        loss.prepare(variant, settings)()
    assert totals[0] > 0
    assert totals[1] == pytest.approx(totals[0], rel=1e-5)


def test_half_precision_runs_under_autocast():
    settings = Settings(dtype='bfloat16', batch=2, channels=64, classes=3)
    assert head.feature_map((4, 4), settings).dtype == torch.bfloat16
    with settings.autocast():
        out = head.build('stock', settings)([head.feature_map((4, 4), settings)])
    assert out.dtype == torch.bfloat16
    head.prepare_both('factorized', (4, 4), settings)()


def test_compile_compiles(monkeypatch):
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend='eager'))
    frames = torch._dynamo.utils.counters['frames']
    for compiled in (False, True):
        frames.clear()
        settings = Settings(compile=compiled, batch=2, channels=64, classes=3)
        head.prepare_forward('factorized', (5, 5), settings)()
        assert bool(frames['ok']) == compiled


# --- measuring ----------------------------------------------------------------------------------


def test_variants_run_in_turn_and_each_time_is_its_own(monkeypatch):
    clock, order = [0.0], []
    monkeypatch.setattr(measuring, 'time', SimpleNamespace(perf_counter=lambda: clock[0]))

    def step(name, seconds):
        def run():
            order.append(name)
            clock[0] += seconds + len(order)

        return run

    steps = {'a': step('a', 100), 'b': step('b', 200), 'c': step('c', 300)}
    seconds = measuring.time_alternately(steps, Settings(runs=2))
    assert ''.join(order) == 'abc' * 3
    assert seconds == {'a': [104, 107], 'b': [205, 208], 'c': [306, 309]}


def test_memory_is_kept_for_the_steps_that_are_named_only(monkeypatch):
    monkeypatch.setattr(measuring, 'keep_freed_memory', lambda: True)
    order = []

    def step(name):
        return lambda: order.append((name, measuring._memory_is_kept))

    steps = {name: step(name) for name in ('stock', 'keeping')}
    measuring.time_alternately(steps, Settings(device='cpu', runs=2), ('keeping',))
    # A step after each change is not timed.
    stock, keeping = ('stock', False), ('keeping', True)
    assert order == [stock, keeping, keeping] + 2 * [stock, stock, keeping, keeping]
    assert not measuring._memory_is_kept


def hold_and_allocate(held, allocated, resettable=True):
    """A preparation that holds some bytes, for a step that allocates some more."""
    if not resettable:
        measuring._reset_peak = lambda: False
    holding = torch.ones(held, dtype=torch.uint8)

    def step():
        # In pieces, which the heap rather than the operating system may serve.
        return holding, [torch.ones(MB, dtype=torch.uint8) for _ in range(allocated // MB)]

    return step


@pytest.mark.parametrize('resettable', [True, False])
def test_peak_memory_is_what_the_step_allocates(resettable):
    preparations = {
        f'{size} MB': functools.partial(hold_and_allocate, 150 * MB, size * MB, resettable)
        for size in (20, 200)
    }
    (small,), (large,) = measuring.peak_memory(preparations, Settings()).values()
    assert small == pytest.approx(20 * MB, abs=2 * MB)
    assert large == pytest.approx(200 * MB, abs=2 * MB)


def die():
    os._exit(9)


def test_a_child_that_dies_is_one_clear_error():
    with pytest.raises(PspnetPluginError, match='smaller --batch'):
        measuring.peak_memory({'killed': die}, Settings())


def refuse():
    raise ValueError('a map of no pixels')


def test_an_error_in_the_child_arrives_as_it_is():
    with pytest.raises(ValueError, match='a map of no pixels'):
        measuring.peak_memory({'refused': refuse}, Settings())


def test_kept_for_backward_counts_each_storage_once():
    x = torch.rand(1000, dtype=torch.float64, requires_grad=True)
    assert measuring.kept_for_backward(lambda: x.sin() + x.cos()) == 8000
    assert measuring.kept_for_backward(lambda: x[:10] * x[10:20]) == 8000
    assert measuring.kept_for_backward(lambda: x.exp().sin()) == 8000  # exp's result, kept by both
    assert measuring.kept_for_backward(lambda: x.sin().exp().sin()) == 16000
    assert measuring.kept_for_backward(lambda: x + 1) == 0


def test_kept_for_backward_leaves_out_parameters_and_what_it_is_told():
    layer = nn.Linear(100, 10, dtype=torch.float64)
    x = torch.rand(7, 100, dtype=torch.float64, requires_grad=True)
    own = measuring.state_of(layer)
    assert measuring.kept_for_backward(lambda: layer(x)) == 8 * (7 * 100 + 100 * 10)
    assert measuring.kept_for_backward(lambda: layer(x), own) == 8 * 7 * 100
    assert measuring.kept_for_backward(lambda: layer(x), [*own, x]) == 0


def test_kept_for_backward_forgets_a_graph_that_the_forward_pass_dropped():
    x = torch.rand(1000, requires_grad=True)

    def forward():
        x.exp()
        return x.sin()

    assert measuring.kept_for_backward(forward) == 4000


# --- tables and the command line ----------------------------------------------------------------

MADE_UP = Table(
    title='Made up',
    beside=(Beside('slow'), Beside(ABOVE), Beside('limit', as_speed=False)),
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


def test_the_markdown_says_medians_spreads_ratios_and_what_is_wanted():
    header, rule, *lines = MADE_UP.as_markdown().splitlines()[2:]
    assert rule.count('|') == header.count('|')
    assert [[cell.strip() for cell in line.strip('|').split('|')] for line in lines] == [
        ['time', 'slow', '3.00 s', '2.00 s to 4.00 s', '', '', '6.00 x', ''],
        [
            'time',
            'fast',
            '1.50 s',
            '1.00 s to 2.00 s',
            '2.00 x as fast',
            '2.00 x as fast',
            '3.00 x',
            'at least 2 x as fast as slow; at most 3 x that of limit',
        ],
        ['time', 'limit', '500.0 ms', '', '6.00 x as fast', '3.00 x as fast', '', ''],
        ['memory', 'slow', '40 MB', '', '', '', '8.00 x', ''],
        [
            'memory',
            'fast',
            '10 MB',
            '',
            '0.25 x',
            '0.25 x',
            '2.00 x',
            'at least 0.2, at most 0.3 x that of slow',
        ],
        ['memory', 'limit', '5.00 MB', '', '0.12 x', '0.50 x', '', ''],
        ['equal', 'slow', '100.0000 %', '', '', '', '', ''],
        ['equal', 'fast', '99.5000 %', '', '', '', '', 'at least 99 %'],
    ]


def test_what_is_wanted_is_missed_outside_its_range_only():
    def missed(quantity, beside, **bounds):
        one = Wanted(quantity, 'fast', beside, **bounds)
        return Table('t', MADE_UP.beside, MADE_UP.quantities, (one,)).missed()

    assert not MADE_UP.missed()
    (sentence,) = missed('time', 'slow', low=2.01)
    assert '2.00' in sentence
    assert 'at least 2.01 x as fast as slow' in sentence
    assert missed('time', 'limit', high=2.99)
    assert missed('memory', 'slow', high=0.24)
    assert missed('memory', 'slow', low=0.26)
    assert missed('equal', None, low=99.51)


@pytest.mark.parametrize('low', [1.9, 2.1])
def test_only_check_turns_a_missed_value_into_exit_code_1(low, monkeypatch, capsys):
    wanted = (Wanted('time', 'fast', 'slow', low=low),)
    table = Table('Made up', MADE_UP.beside, MADE_UP.quantities, wanted)
    entry = benchmark.BENCHMARKS['loss']._replace(measure=lambda settings: [table])
    monkeypatch.setitem(benchmark.BENCHMARKS, 'loss', entry)
    assert benchmark.main(['loss', '--threads', str(torch.get_num_threads())]) == 0
    assert 'missed' not in capsys.readouterr().out
    code = benchmark.main(['loss', '--check', '--threads', str(torch.get_num_threads())])
    assert code == (low > 2)
    assert ('missed: Made up' in capsys.readouterr().out) == (low > 2)


@pytest.mark.parametrize('name', ['head', 'freeze'])
def test_the_plot_is_a_picture_with_a_panel_for_each_quantity(name, tmp_path, monkeypatch):
    panels = []
    write = benchmark.plots._write
    monkeypatch.setattr(
        benchmark.plots,
        '_write',
        lambda figure, path: (panels.extend(figure.axes), write(figure, path)),
    )
    args = benchmark.parse([name, *TINY[name].split(), '--plot', str(tmp_path / 'plot.png')])
    benchmark.draw(measured(name), args, tiny_settings(name))
    with Image.open(tmp_path / 'plot.png') as picture:
        assert min(picture.size) > 300
    drawn = [axis.get_title() for axis in panels]
    if name == 'head':
        assert drawn == ['forward', 'forward + backward']
        labels = [text.get_text() for text in panels[0].get_legend().get_texts()]
        assert labels == ROWS['head']
    else:
        assert drawn == QUANTITIES['freeze']
        assert len(panels[0].patches) == len(ROWS['freeze'])


def test_the_command_prints_its_table_and_writes_it(tmp_path):
    options = TINY['loss'].split()
    files = ['--markdown', tmp_path / 'loss.md', '--plot', tmp_path / 'loss.png']
    code, output = run_python(ROOT / 'tools' / 'benchmark.py', 'loss', *options, *files)
    assert code == 0, output[-4000:]
    assert 'streamed' in output
    written = (tmp_path / 'loss.md').read_text()
    assert written.startswith('`python tools/benchmark.py loss --classes 5')
    assert torch.__version__ in written
    assert '| peak memory | streamed |' in written
    assert (tmp_path / 'loss.png').is_file()


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
        benchmark.main(arguments.split())
    assert refused.value.code == 2
    assert message in capsys.readouterr().err
