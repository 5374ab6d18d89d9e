"""mmengine's loaders: every scheme still loads, none runs code, each refusal is one clear line."""

import functools
import http.server
import os
import sys
import threading
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModule
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from pspnet_plugin.compat.checkpoint_loaders import CheckpointError, explain_load_error
from tests.helpers.attacks import Payload
from tests.helpers.pretrained_runs import SAVING, make_runner

SCHEMES = (
    *('', 'http://', 'torchvision://', 'modelzoo://', 'open-mmlab://', 'openmmlab://', 'mmcls://'),
    *('s3://', 'petrel://', 'pavi://'),
)
HAS_LIST = hasattr(torch.serialization, 'safe_globals')  # torch >= 2.5
WAY_OUT = (
    'add_safe_globals'
    if hasattr(torch.serialization, 'add_safe_globals')  # torch >= 2.4
    else 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1'
)


def load(reference):
    return CheckpointLoader.load_checkpoint(str(reference), map_location='cpu')


def load_as_pretrained(reference):
    BaseModule(init_cfg={'type': 'Pretrained', 'checkpoint': reference}).init_weights()


# --- every scheme -------------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


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


@pytest.fixture
def refer(tmp_path, web, monkeypatch):
    """A reference of a given scheme to the file ``tmp_path / 'web' / 'file.pth'``."""
    path = tmp_path / 'web' / 'file.pth'
    for names in ('get_torchvision_models', 'get_external_models', 'get_mmcls_models'):
        monkeypatch.setattr(mmengine_checkpoint, names, lambda: {'model': f'{web}/file.pth'})
    storage = types.SimpleNamespace(get=lambda name: path.read_bytes())
    monkeypatch.setattr(mmengine_checkpoint, 'get_file_backend', lambda *args, **kwargs: storage)
    cloud = types.SimpleNamespace(
        name='file.pth', download=lambda target: Path(target).write_bytes(path.read_bytes())
    )
    pavi = types.SimpleNamespace(modelcloud=types.SimpleNamespace(get=lambda name: cloud))
    monkeypatch.setitem(sys.modules, 'pavi', pavi)

    def refer(scheme):
        return {'': str(path), 'http://': f'{web}/file.pth'}.get(scheme, f'{scheme}model')

    return refer


def save_with_code(path, made, kind='zip'):
    content = {'state_dict': {'weight': torch.ones(2)}, 'meta': Payload(os.mkdir, str(made))}
    torch.save(content, path, _use_new_zipfile_serialization=kind == 'zip')
    if kind == 'zipped pickle':  # which torch.hub unpacks
        plain = path.rename(path.with_name('plain.pth'))
        with zipfile.ZipFile(path, 'w') as archive:
            archive.write(plain, 'plain.pth')


@pytest.mark.parametrize('scheme', SCHEMES)
def test_checkpoint_of_mmengine_loads_by_every_scheme(tmp_path, refer, scheme):
    loss = HistoryBuffer(np.arange(5.0), np.ones(5))
    content = {'state_dict': {'backbone.weight': torch.ones(2)}, 'loss': loss}
    torch.save(content, tmp_path / 'web' / 'file.pth')
    loaded = load(refer(scheme))
    if scheme == 'mmcls://':  # which keeps the backbone alone
        assert loaded['state_dict']['weight'].tolist() == [1, 1]
    else:
        assert loaded['state_dict']['backbone.weight'].tolist() == [1, 1]
        assert loaded['loss'].mean() == loss.mean()


@pytest.mark.parametrize('scheme', SCHEMES)
def test_code_is_refused_by_every_scheme_and_the_reference_is_named(tmp_path, refer, scheme):
    save_with_code(tmp_path / 'web' / 'file.pth', tmp_path / 'made')
    with pytest.raises(CheckpointError, match=rf'{refer(scheme)} holds .*mkdir'):
        load(refer(scheme))
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize('kind', ['pickle', 'zipped pickle'])
@pytest.mark.parametrize('how', [load, load_as_pretrained])
def test_code_is_refused_in_every_format(tmp_path, refer, how, kind):
    save_with_code(tmp_path / 'web' / 'file.pth', tmp_path / 'made', kind)
    with pytest.raises(CheckpointError, match='holds .*mkdir'):
        how(refer('http://'))
    assert not (tmp_path / 'made').exists()


def test_reader_of_mmengine_that_asks_for_code_gets_none(tmp_path):
    # As those of its forks do after a refusal.
    save_with_code(tmp_path / 'bad.pth', tmp_path / 'made')
    fork = 'def load_from_local(filename): return torch.load(filename, weights_only=False)'
    namespace = dict(vars(mmengine_checkpoint))
    exec(fork, namespace)
    with pytest.raises(Exception, match='mkdir'):
        namespace['load_from_local'](tmp_path / 'bad.pth')
    assert not (tmp_path / 'made').exists()


# --- the user's word ----------------------------------------------------------------------------


class Recipe:
    """An object that a user keeps in checkpoints."""

    learning_rate = 0.1


@pytest.mark.skipif(not HAS_LIST, reason='torch before 2.5 has no safe_globals')
def test_class_that_the_user_allows_loads(tmp_path):
    torch.save({'recipe': Recipe()}, tmp_path / 'mine.pth')
    with pytest.raises(CheckpointError, match=f'Recipe.*{WAY_OUT}'):
        load(tmp_path / 'mine.pth')
    with torch.serialization.safe_globals([Recipe]):
        for _ in range(2):
            assert load(tmp_path / 'mine.pth')['recipe'].learning_rate == 0.1


def test_user_who_says_so_to_torch_loads_code(tmp_path, refer, monkeypatch):
    save_with_code(tmp_path / 'web' / 'file.pth', tmp_path / 'made')
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    for scheme in ('', 'http://'):
        load(refer(scheme))
        (tmp_path / 'made').rmdir()


def test_loader_of_the_user_reads_as_written_and_sees_the_environment_as_it_is(
    tmp_path, monkeypatch
):
    save_with_code(tmp_path / 'trusted.pth', tmp_path / 'made')
    before = dict(os.environ)

    def load_from_mine(filename, map_location):
        assert dict(os.environ) == before
        return torch.load(tmp_path / 'trusted.pth', weights_only=False)

    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes.copy())
    CheckpointLoader.register_scheme('mine://', load_from_mine)
    load('mine://trusted')
    assert (tmp_path / 'made').exists()


# --- broken files -------------------------------------------------------------------------------


def save_in_turn(folder, *names, run='psp_20260102_030405'):
    for name in names:
        content = {'meta': {'experiment_name': run}, 'state_dict': {'weight': torch.rand(64, 64)}}
        if not name.startswith('best_'):  # as mmengine's CheckpointHook writes them
            content['optimizer'] = {'param_groups': []}
        torch.save(content, folder / name)
        second = len(list(folder.glob('*.pth')))
        os.utime(folder / name, (second, second))


def cut_in_half(path):
    written = path.stat().st_mtime
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    os.utime(path, (written, written))


def flip_a_value(path, place=-9000):
    written, data = path.stat().st_mtime, bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    os.utime(path, (written, written))


def test_cut_checkpoint_is_refused_and_the_whole_one_before_it_is_named(tmp_path):
    names = ['iter_10.pth', 'best_mIoU_iter_10.pth', 'iter_20.pth', 'iter_30.pth', 'iter_40.pth']
    save_in_turn(tmp_path, *names)
    for name in ('iter_20.pth', 'iter_30.pth'):
        cut_in_half(tmp_path / name)
    with pytest.raises(CheckpointError) as raised:
        load(tmp_path / 'iter_30.pth')
    message = str(raised.value)
    assert 'iter_30.pth is cut or broken' in message
    assert f'load_from={tmp_path / "iter_10.pth"}' in message


def test_file_of_another_run_is_not_the_way_out(tmp_path):
    save_in_turn(tmp_path, 'iter_10.pth', 'best_mIoU_iter_10.pth', run='psp_20251231_000000')
    torch.save({'weight': torch.rand(64, 64)}, tmp_path / 'resnet50.pth')
    save_in_turn(tmp_path, 'iter_20.pth')
    cut_in_half(tmp_path / 'iter_20.pth')
    with pytest.raises(CheckpointError, match=r'No whole checkpoint of its run'):
        load(tmp_path / 'iter_20.pth')


@pytest.mark.parametrize('damage', [cut_in_half, flip_a_value])
def test_damaged_file_and_a_link_to_nothing_are_not_the_way_out(tmp_path, damage):
    save_in_turn(tmp_path, 'iter_10.pth', 'iter_20.pth', 'iter_30.pth')
    flip_a_value(tmp_path / 'iter_20.pth')
    damage(tmp_path / 'iter_30.pth')
    (tmp_path / 'latest.pth').symlink_to(tmp_path / 'iter_40.pth')
    told = 'is cut or broken' if damage is cut_in_half else 'checksum of'
    with pytest.raises(CheckpointError, match=rf'{told} .*load_from=.*iter_10\.pth'):
        load(tmp_path / 'iter_30.pth')


def test_resumed_run_has_the_files_before_it_as_its_way_out(tmp_path):
    for iterations, last in ((2, ''), (4, 'iter_2.pth')):
        resume = {'resume': True, 'load_from': str(tmp_path / last)} if last else {}
        runner = make_runner(
            tmp_path, train_cfg={'by_epoch': False, 'max_iters': iterations}, **resume, **SAVING
        )
        runner.train()
    (tmp_path / 'iter_3.pth').unlink()
    cut_in_half(tmp_path / 'iter_4.pth')
    with pytest.raises(CheckpointError, match=r'load_from=.*iter_2\.pth'):
        load(tmp_path / 'iter_4.pth')


@pytest.mark.parametrize(
    ('content', 'kind'),
    [
        ({'state_dict': [torch.ones(2)]}, 'list'),
        ([torch.ones(2)], 'list'),
        (None, 'NoneType'),
        (torch.ones(2), 'Tensor'),
        ({0: torch.ones(2)}, 'dict'),
    ],
)
def test_a_state_dict_that_is_none_is_named(tmp_path, content, kind):
    torch.save(content, tmp_path / 'list.pth')
    with pytest.raises(CheckpointError, match=f"has a {kind} as its 'state_dict'"):
        load(tmp_path / 'list.pth')


@pytest.mark.parametrize('value', [np.array([None]), np.array([1j]), np.array([b'bytes'])])
def test_whole_checkpoint_with_something_else_inside_is_not_called_broken(tmp_path, value):
    path = tmp_path / 'whole.pth'
    torch.save({'extra': value}, path)
    with pytest.raises(CheckpointError, match=r'whole\.pth holds numpy\.dtype'):
        load(path)


@pytest.mark.parametrize('name', ['iter_10.pth', 'on another machine.pth'])
def test_memory_that_is_missing_is_not_called_a_broken_file(tmp_path, name):
    save_in_turn(tmp_path, 'iter_10.pth')
    error = RuntimeError('CUDA out of memory')
    assert explain_load_error(str(tmp_path / name), error) is None


def test_error_that_is_not_about_the_file_stays_as_it_is():
    with pytest.raises(FileNotFoundError):
        load('nowhere.pth')
