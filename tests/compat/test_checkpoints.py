"""Stand-ins read what mmengine writes, while ``reading_checkpoints`` holds and only then."""

import argparse
import io
import pickle
import struct
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import save_checkpoint

from pspnet_plugin.compat import checkpoints, old_torch
from pspnet_plugin.compat.checkpoints import reading_checkpoints
from pspnet_plugin.utils.checkpoint_errors import refused_name
from tests.helpers.attacks import checkpoint_of

needs_torch_2_6 = pytest.mark.skipif(
    old_torch.installed(), reason='torch before 2.6 has no allow-list for stand-ins'
)


def allowed():
    return set(torch.serialization.get_safe_globals())


@pytest.fixture(params=['torch', 'old torch'])
def reader(request, monkeypatch):
    """The reader for torch before 2.6 runs on every torch, and must agree with torch's own."""
    if request.param == 'old torch':
        monkeypatch.setattr(old_torch, 'installed', lambda: True)
    elif old_torch.installed():
        pytest.skip('torch before 2.6 reads no checkpoint of mmengine without running code')


by_both_readers = pytest.mark.usefixtures('reader')


def load(path):
    return checkpoints.load(path)


@pytest.fixture
def written(tmp_path):
    """The path of a checkpoint as mmengine writes it."""
    path = tmp_path / 'written.pth'
    save_checkpoint({'loss': HistoryBuffer(np.arange(5.0), np.ones(5))}, str(path))
    return path


@by_both_readers
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
    assert type(again) is HistoryBuffer
    assert again.mean() == loss.mean()
    assert again.min() == 0


@by_both_readers
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


@by_both_readers
def test_namespace_of_a_command_line_loads(tmp_path):
    torch.save({'args': argparse.Namespace(arch='resnet50', lr=0.1)}, tmp_path / 'dino.pth')
    assert load(tmp_path / 'dino.pth')['args'].arch == 'resnet50'


# --- for how long -------------------------------------------------------------------------------


@needs_torch_2_6
def test_torch_by_itself_reads_as_stock_torch_before_and_after(written):
    for _ in range(2):
        with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
            torch.load(written, weights_only=True)
        load(written)


@needs_torch_2_6
def test_allow_list_is_as_before_also_after_an_error_and_inside_itself(written):
    before = allowed()
    with reading_checkpoints():
        load(written)
        torch.load(written, weights_only=True)
    with pytest.raises(ZeroDivisionError), reading_checkpoints():
        raise ZeroDivisionError
    assert allowed() == before


@needs_torch_2_6
def test_thread_that_ends_first_takes_nothing_from_the_other(written):
    before = allowed()
    inside, done = threading.Event(), threading.Event()

    def first():
        with reading_checkpoints():
            inside.set()
            assert done.wait(60)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(60)
    with reading_checkpoints():
        done.set()
        thread.join()
        assert torch.load(written, weights_only=True)['loss'].mean() == 2
    assert allowed() == before


@needs_torch_2_6
def test_many_threads_read_at_once(written):
    before = allowed()
    with ThreadPoolExecutor(8) as pool:
        means = list(pool.map(lambda _: load(written)['loss'].mean(), range(64)))
    assert means == [2.0] * 64
    assert allowed() == before


# --- what the user allows -----------------------------------------------------------------------


@needs_torch_2_6
def test_what_the_user_has_allowed_stays_allowed(written):
    with torch.serialization.safe_globals([argparse.Namespace, HistoryBuffer]):
        before = allowed()
        with reading_checkpoints():
            pass
        assert allowed() == before


@needs_torch_2_6
def test_user_who_allows_one_class_of_mmengine_can_still_read(written):
    with torch.serialization.safe_globals([HistoryBuffer]):
        loaded = load(written)['loss']
    assert [loaded.statistics(name) for name in ('min', 'max', 'mean')] == [0, 4, 2]


@needs_torch_2_6
def test_user_who_allows_the_classes_of_numpy_themselves_is_obeyed(tmp_path):
    path = tmp_path / 'complex.pth'
    save_checkpoint({'loss': HistoryBuffer(np.ones(2), np.ones(2)), 'z': np.array([1j])}, str(path))
    with pytest.raises(pickle.UnpicklingError, match=r'numpy\.dtype'):
        load(path)
    dtypes = [type(np.dtype(kind)) for kind in (float, complex)]
    classes = [np.ndarray, np.dtype, np.array(0).__reduce__()[0], *dtypes]
    with torch.serialization.safe_globals(classes):
        loaded = load(path)
    assert loaded['z'] == 1j
    assert loaded['loss'].mean() == 1


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
    'another attribute of a scheduler': call(
        'builtins.getattr',
        b'cmmengine.optim.scheduler.param_scheduler\nOneCycleParamScheduler\n' + text('__init__'),
    ),
    'bytes of any size': call('builtins.bytes', number(1 << 30)),
    'an attribute of something else': call('builtins.getattr', DTYPE + text('numpy')),
}


def read(stack):
    return load(checkpoint_of(stack))


@by_both_readers
@pytest.mark.parametrize('what', REFUSED)
def test_narrow_stand_ins_refuse(what):
    with pytest.raises(pickle.UnpicklingError, match='is refused'):
        read(REFUSED[what])


@by_both_readers
def test_the_same_opcodes_without_the_trick_load():
    array = read(EMPTY + array_state(1, raw(struct.pack('<d', 2.5))))
    assert array.tolist() == [2.5]


@by_both_readers
def test_empty_histories_arrays_and_bytes_load():
    empty = {'history': HistoryBuffer(), 'array': np.zeros((0, 3), np.int64), 'bytes': b''}
    file = io.BytesIO()
    torch.save(empty, file)
    file.seek(0)
    again = load(file)
    assert (again['array'].shape, again['array'].dtype) == ((0, 3), np.int64)
    assert again['bytes'] == b''
    again['history'].update(2.0)
    assert again['history'].mean() == 2


@by_both_readers
def test_statistics_in_a_checkpoint_do_not_change_those_of_the_process():
    history = b'cmmengine.logging.history_buffer\nHistoryBuffer\n)\x81'
    table = text('mean') + b'ctorch\nSize\n' + text('custom') + b'K\x01'
    read(history + b'}' + text('statistics_methods') + b'}(' + table + b'us' + b'b')
    assert HistoryBuffer([1.0, 3.0], [1, 1]).statistics('mean') == 2
    with pytest.raises(KeyError, match='custom'):
        HistoryBuffer([1.0], [1]).statistics('custom')


@needs_torch_2_6
def test_refused_name_is_found_in_the_message_of_torch(written):
    with pytest.raises(pickle.UnpicklingError) as raised:
        torch.load(written, weights_only=True)
    assert refused_name(raised.value) == 'mmengine.logging.history_buffer.HistoryBuffer'
    assert refused_name(ValueError('another error')) is None
