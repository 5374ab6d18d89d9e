"""Checkpoints: what mmengine writes loads, all else is refused by name."""

import functools
import http.server
import os
import pickle
import struct
import threading
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import CheckpointLoader, save_checkpoint

from pspnet_plugin.compat import checkpoints
from tests.helpers.attacks import Payload
from tests.helpers.processes import ROOT, run_python
from tests.helpers.street_scenes import small_run_options


def load(path):
    return CheckpointLoader.load_checkpoint(str(path), map_location='cpu')


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
    with pytest.raises(checkpoints.CheckpointError, match=call.__name__) as raised:
        load(path)
    assert 'add_safe_globals' in str(raised.value)
    assert not made.exists()


# --- code in what comes from the web -----------------------------------------------------------


@pytest.fixture
def web(tmp_path, monkeypatch):
    """The address of a server on the loopback for the files in ``tmp_path / 'web'``."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    for name in ('http_proxy', 'HTTP_PROXY', 'all_proxy', 'ALL_PROXY'):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / 'web').mkdir()
    handler = functools.partial(Quiet, directory=tmp_path / 'web')
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()
    server.server_close()
    thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def save_with_code(path, made, kind='zip'):
    content = {'state_dict': {'weight': torch.ones(2)}, 'meta': Payload(os.mkdir, str(made))}
    torch.save(content, path, _use_new_zipfile_serialization=kind == 'zip')
    if kind == 'zipped pickle':  # which torch.hub unpacks
        plain = path.rename(path.with_name('plain.pth'))
        with zipfile.ZipFile(path, 'w') as archive:
            archive.write(plain, 'plain.pth')


def load_as_pretrained(reference):
    BaseModule(init_cfg={'type': 'Pretrained', 'checkpoint': reference}).init_weights()


@pytest.mark.parametrize('kind', ['zip', 'pickle', 'zipped pickle'])
@pytest.mark.parametrize(
    ('scheme', 'how'),
    [
        ('', load),
        ('', load_as_pretrained),
        ('torchvision://', load),
        ('torchvision://', load_as_pretrained),
        ('open-mmlab://', load),
        ('mmcls://', load),
    ],
)
def test_code_from_the_web_is_refused_by_every_loader(
    tmp_path, monkeypatch, web, scheme, how, kind
):
    save_with_code(tmp_path / 'web' / 'bad.pth', tmp_path / 'made', kind)
    for names in ('get_torchvision_models', 'get_external_models', 'get_mmcls_models'):
        monkeypatch.setattr(
            f'mmengine.runner.checkpoint.{names}', lambda: {'model': f'{web}/bad.pth'}
        )
    reference = f'{scheme}model' if scheme else f'{web}/bad.pth'
    with pytest.raises(checkpoints.CheckpointError, match=f'{reference} holds .*mkdir'):
        how(reference)
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize('tool', ['test.py', 'train.py'])
def test_tools_refuse_code_from_the_web(tmp_path, web, street_scenes, tool):
    from tests.test_tools import CONFIG, NARROW

    address = f'{web}/bad.pth'
    save_with_code(tmp_path / 'web' / 'bad.pth', tmp_path / 'made')
    options = ['--work-dir', tmp_path, *small_run_options(street_scenes), *NARROW]
    arguments = [address, *options]
    if tool == 'train.py':
        arguments = ['--resume', *options, f'load_from={address}']
    code, output = run_python(ROOT / 'tools' / tool, CONFIG, *arguments)
    assert code == 1
    error = output.strip().splitlines()[-1]
    assert error.startswith(f'error: The checkpoint {address} holds')
    assert 'mkdir' in error
    assert not (tmp_path / 'made').exists()


def test_a_checkpoint_of_mmengine_loads_from_the_web(tmp_path, web):
    loss = HistoryBuffer(np.arange(5.0), np.ones(5))
    save_checkpoint({'loss': loss}, str(tmp_path / 'web' / 'good.pth'))
    assert load(f'{web}/good.pth')['loss'].mean() == loss.mean()


def test_a_loader_that_asks_for_code_gets_none(tmp_path, monkeypatch):
    # As the readers of mmengine's later versions do.
    save_with_code(tmp_path / 'bad.pth', tmp_path / 'made')
    monkeypatch.setitem(
        CheckpointLoader._schemes,
        '',
        lambda path, map_location: torch.load(path, weights_only=False),
    )
    with pytest.raises(checkpoints.CheckpointError, match='mkdir'):
        load(tmp_path / 'bad.pth')
    assert not (tmp_path / 'made').exists()


def test_what_torch_loads_outside_of_mmengine_is_left_alone(tmp_path, monkeypatch):
    save_with_code(tmp_path / 'trusted.pth', tmp_path / 'made')
    for before in ('0', None):
        if before is None:
            monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD')
        else:
            monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', before)
        with pytest.raises(checkpoints.CheckpointError):
            load(tmp_path / 'trusted.pth')
        assert os.environ.get('TORCH_FORCE_WEIGHTS_ONLY_LOAD') == before
    torch.load(tmp_path / 'trusted.pth', weights_only=False)
    assert (tmp_path / 'made').exists()


def test_a_user_who_says_so_to_torch_loads_code(tmp_path, monkeypatch):
    save_with_code(tmp_path / 'trusted.pth', tmp_path / 'made')
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    load(tmp_path / 'trusted.pth')
    assert (tmp_path / 'made').exists()


# --- what the stand-ins refuse: pickles written by hand, opcode by opcode -----------------------


def text(value):
    encoded = value.encode()
    return b'X' + struct.pack('<I', len(encoded)) + encoded


def number(value):
    return b'J' + struct.pack('<i', value)


def call(function, arguments):
    module, name = function.rsplit('.', 1)
    return b'c' + f'{module}\n{name}\n'.encode() + b'(' + arguments + b'tR'


def raw(data):
    return call('_codecs.encode', text(data.decode('latin1')) + text('latin1'))


DTYPE = call('numpy.dtype', text('f8') + b'\x89\x88')
STATE = b'K\x03' + text('<') + b'NNN' + number(-1) + number(-1) + b'K\x00'
EMPTY = call('numpy._core.multiarray._reconstruct', b'cnumpy\nndarray\nK\x00\x85' + raw(b'b'))


def array_state(shape, data):
    return b'(K\x01' + number(shape) + b'\x85' + DTYPE + b'(' + STATE + b'tb\x89' + data + b'tb'


EIGHT_BYTES = raw(bytes(8))
REFUSED = {
    'a subarray in a dtype': DTYPE
    + b'(K\x03'
    + text('<')
    + DTYPE
    + number(9)
    + b'\x85\x86NN'
    + number(-1)
    + number(-1)
    + b'K\x00tb',
    'a dtype of objects': call('numpy.dtype', text('O') + b'\x89\x88'),
    'a dtype of bytes without a size': call('numpy.dtype', text('V') + b'\x89\x88'),
    'an array over given memory': call('numpy.ndarray', number(9) + b'\x85' + DTYPE + EIGHT_BYTES),
    'an array larger than its data': EMPTY + array_state(1000, EIGHT_BYTES),
    'an array smaller than its data': EMPTY + array_state(0, EIGHT_BYTES),
    'an array filled twice': EMPTY + array_state(1, EIGHT_BYTES) + array_state(1, EIGHT_BYTES),
    'an array of Python objects': EMPTY + array_state(1, b']K\x01a'),
    'a private attribute': call(
        'builtins.getattr', b'cmmengine.logging.history_buffer\nHistoryBuffer\n' + text('__init__')
    ),
    'an attribute of something else': call('builtins.getattr', DTYPE + text('numpy')),
}


def read(stack):
    import io

    from torch import _weights_only_unpickler

    return _weights_only_unpickler.load(io.BytesIO(b'\x80\x02' + stack + b'.'))


@pytest.mark.parametrize('what', REFUSED)
def test_narrow_stand_ins_refuse(what):
    with pytest.raises(pickle.UnpicklingError, match='is refused'):
        read(REFUSED[what])


def test_the_same_opcodes_without_the_trick_load():
    array = read(EMPTY + array_state(1, raw(struct.pack('<d', 2.5))))
    assert array.tolist() == [2.5]


def test_statistics_in_a_checkpoint_do_not_change_those_of_the_process():
    history = b'cmmengine.logging.history_buffer\nHistoryBuffer\n)\x81'
    table = text('mean') + b'ctorch\nSize\n' + text('__subclasses__') + b'K\x01'
    read(history + b'}' + text('statistics_methods') + b'}(' + table + b'us' + b'b')
    assert HistoryBuffer([1.0, 3.0], [1, 1]).statistics('mean') == 2
    assert '__subclasses__' not in HistoryBuffer._statistics_methods


def test_what_was_loaded_can_be_saved_and_loaded_again(tmp_path):
    values = {'array': np.arange(3.0), 'history': HistoryBuffer(np.ones(2), np.ones(2))}
    for name in ('first.pth', 'second.pth'):
        save_checkpoint(values, str(tmp_path / name))
        values = load(tmp_path / name)
    assert type(pickle.loads(pickle.dumps(values['array']))) is np.ndarray
    assert (values['array'] + 1).tolist() == [1, 2, 3]
    values['history'].update(4, 2)
    assert values['history'].mean() == 1.5
    assert values['history'].max_length == HistoryBuffer().max_length


# --- broken files -------------------------------------------------------------------------------


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
    with pytest.raises(checkpoints.CheckpointError) as raised:
        load(tmp_path / 'iter_30.pth')
    message = str(raised.value)
    assert 'iter_30.pth is broken or incomplete' in message
    assert f'load_from={tmp_path / "iter_10.pth"}' in message


@pytest.mark.parametrize(
    'content', [b'', b'<html>not found</html>', b'Rate limit exceeded', b'X', b'PK\x03\x04']
)
def test_file_that_is_no_checkpoint_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / 'weights.pth'
    path.write_bytes(content)
    with pytest.raises(checkpoints.CheckpointError, match='weights.pth is broken') as raised:
        load(path)
    assert '\n' not in str(raised.value)


@pytest.mark.parametrize('value', [np.array([None]), np.array([1j]), np.array([b'bytes'])])
def test_whole_checkpoint_with_something_else_inside_is_not_called_broken(tmp_path, value):
    path = tmp_path / 'whole.pth'
    torch.save({'extra': value}, path)
    with pytest.raises(checkpoints.CheckpointError, match=r'whole\.pth holds numpy\.dtype'):
        load(path)


def test_other_errors_about_a_whole_file_stay_as_they_are():
    error = RuntimeError('CUDA out of memory')
    assert checkpoints.explain_load_error('whole.pth', error) is None


def test_error_that_is_not_about_the_file_stays_as_it_is():
    with pytest.raises(FileNotFoundError):
        load('nowhere.pth')
