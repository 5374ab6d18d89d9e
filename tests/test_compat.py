"""The repairs of the stock stack: operators on mmcv-lite, and checkpoints on torch >= 2.6."""

import importlib.util
import os
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader, save_checkpoint
from mmseg.registry import MODELS
from torch.nn import functional as F

from pspnet_plugin import compat
from tests.conftest import run_python

ON_LITE = importlib.util.find_spec('mmcv._ext') is None
needs_lite = pytest.mark.skipif(not ON_LITE, reason='this mmcv has its compiled operators')


def load(path):
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


# --- operators ----------------------------------------------------------------------------------


@needs_lite
def test_mmseg_models_import_with_the_plugin_and_not_without_it():
    code, output = run_python('-c', 'import mmseg.models')
    assert code != 0
    assert 'mmcv._ext' in output
    # The process of this test has imported the plugin.
    import mmseg.models

    assert mmseg.models.EncoderDecoder


@needs_lite
def test_model_that_needs_a_compiled_operator_says_so_when_it_is_built():
    head = dict(type='PSAHead', in_channels=4, channels=2, num_classes=2, mask_size=(5, 5))
    with pytest.raises(compat.MissingOperatorError, match=r'PSAMask.*mmcv-lite.*install mmcv'):
        MODELS.build(head)


@needs_lite
def test_compiled_function_says_so_when_it_is_called():
    from mmcv.ops import nms

    with pytest.raises(compat.MissingOperatorError, match='nms'):
        nms(torch.rand(3, 4), torch.rand(3), 0.5)


def test_operator_written_in_python_computes_what_grid_sample_does():
    from mmcv.ops import point_sample

    features, points = torch.rand(2, 3, 5, 7), torch.rand(2, 11, 2)
    expected = F.grid_sample(features, points.unsqueeze(2) * 2 - 1, align_corners=False)
    assert torch.equal(point_sample(features, points), expected.squeeze(3))


def test_stand_in_does_not_pretend_that_the_extension_is_installed():
    assert (importlib.util.find_spec('mmcv._ext') is None) == ON_LITE


def test_operators_are_left_alone_where_the_extension_is_installed(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        'find_spec',
        lambda name: object() if name == 'mmcv._ext' else find_spec(name),
    )
    monkeypatch.setattr(
        compat, 'load_mmcv_operators_without_extension', lambda: pytest.fail('was called')
    )
    compat.apply()


def test_missing_mmcv_is_one_line_that_says_what_to_install(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name == 'mmcv' else find_spec(name)
    )
    with pytest.raises(ImportError, match='pip install mmcv-lite') as raised:
        compat.apply()
    assert '\n' not in str(raised.value)


# --- checkpoints --------------------------------------------------------------------------------


def test_everything_that_mmengine_writes_loads_again(tmp_path):
    loss = HistoryBuffer(np.arange(5.0), np.ones(5))
    checkpoint = {
        'meta': {'iter': 3, 'seed': np.int64(7), 'palette': [[1, 2, 3]], 'classes': ('a', 'b')},
        'message_hub': {
            'log_scalars': {'loss': loss},
            'runtime_info': {'best_score': np.float64(0.5), 'best_f': np.float32(0.25)},
        },
        'arrays': [np.arange(4, dtype=kind) for kind in ('uint8', 'int32', 'int64', 'float16')],
        'names': np.array(['road', 'car']),
        'flag': np.bool_(True),
        'state_dict': {'weight': torch.rand(2, 2)},
    }
    path = tmp_path / 'iter_3.pth'
    save_checkpoint(checkpoint, str(path))
    loaded = load(path)
    assert torch.equal(loaded['state_dict']['weight'], checkpoint['state_dict']['weight'])
    assert loaded['meta'] == checkpoint['meta']
    assert loaded['message_hub']['runtime_info'] == checkpoint['message_hub']['runtime_info']
    assert all(map(np.array_equal, loaded['arrays'], checkpoint['arrays']))
    assert np.array_equal(loaded['names'], checkpoint['names'])
    again = loaded['message_hub']['log_scalars']['loss']
    assert again.mean() == loss.mean()
    assert again.min() == 0


def test_stock_torch_refuses_what_mmengine_writes(tmp_path):
    path = tmp_path / 'stock.pth'
    torch.save({'loss': HistoryBuffer()}, path)
    code, output = run_python('-c', f'import torch, mmengine.logging; torch.load({str(path)!r})')
    assert code != 0
    assert 'HistoryBuffer' in output


class Payload:
    """Pickles as a call that makes a folder when the file is loaded."""

    def __init__(self, call, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('call', [os.mkdir, eval, getattr])
def test_checkpoint_that_would_run_code_is_refused_and_named(tmp_path, call):
    made = tmp_path / 'made'
    arguments = {
        os.mkdir: (str(made),),
        eval: (f'__import__("os").mkdir({str(made)!r})',),
        getattr: (HistoryBuffer, '__init__'),
    }[call]
    path = tmp_path / 'bad.pth'
    torch.save({'state_dict': {}, 'extra': Payload(call, *arguments)}, path)
    with pytest.raises(compat.CheckpointError, match=call.__name__) as raised:
        load(path)
    assert 'add_safe_globals' in str(raised.value)
    assert not made.exists()


def test_statistics_are_the_only_thing_that_getattr_gives():
    assert compat._history_buffer_method(HistoryBuffer, 'mean') is HistoryBuffer.mean
    for owner, name in ((HistoryBuffer, '__class__'), (HistoryBuffer, 'update'), (os, 'system')):
        with pytest.raises(pickle.UnpicklingError):
            compat._history_buffer_method(owner, name)


def save_in_turn(folder, *names):
    for second, name in enumerate(names):
        torch.save({'state_dict': {'weight': torch.rand(64, 64)}}, folder / name)
        os.utime(folder / name, (second, second))


def cut_in_half(path):
    written = path.stat().st_mtime
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    os.utime(path, (written, written))


def test_cut_checkpoint_is_refused_and_the_whole_one_before_it_is_named(tmp_path):
    save_in_turn(tmp_path, 'iter_10.pth', 'iter_20.pth', 'iter_30.pth', 'iter_40.pth')
    for name in ('iter_20.pth', 'iter_30.pth'):
        cut_in_half(tmp_path / name)
    with pytest.raises(compat.CheckpointError) as raised:
        load(tmp_path / 'iter_30.pth')
    message = str(raised.value)
    assert 'iter_30.pth is broken or incomplete' in message
    assert f'load_from={tmp_path / "iter_10.pth"}' in message


@pytest.mark.parametrize('content', [b'', b'<html>not found</html>', b'PK\x03\x04'])
def test_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / 'weights.pth'
    path.write_bytes(content)
    with pytest.raises(compat.CheckpointError, match='weights.pth is broken') as raised:
        load(path)
    assert '\n' not in str(raised.value)


def test_error_that_is_not_about_the_file_stays_as_it_is():
    with pytest.raises(FileNotFoundError):
        load('nowhere.pth')


def test_older_torch_needs_no_help_and_gets_none(monkeypatch):
    monkeypatch.setattr(torch, '__version__', '2.5.1')
    monkeypatch.setattr(compat, 'allow_mmengine_checkpoints', lambda: pytest.fail('was called'))
    compat.apply()


def test_applying_twice_changes_nothing():
    before = CheckpointLoader.load_checkpoint.__func__
    compat.apply()
    assert CheckpointLoader.load_checkpoint.__func__ is before
