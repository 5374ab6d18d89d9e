"""The reader for torch before 2.6: what torch's own reads, and nothing that runs code.

It runs here on every version of torch. What mmengine writes, and what the stand-ins refuse, is
tested for both readers in ``test_checkpoints.py``.
"""

import collections
import io
import os
import pickle
import tarfile

import pytest
import torch

from pspnet_plugin.compat import old_torch
from tests.helpers.attacks import Payload, checkpoint_of


def load(file, **options):
    return old_torch.load(file, {}, **options)


def saved(content, path, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


TENSORS = {
    'weight': torch.rand(2, 3),
    'view': torch.arange(12.0).view(3, 4)[1:, ::2],
    'parameter': torch.nn.Parameter(torch.rand(2)),
    'sparse': torch.eye(3).to_sparse(),
    'quantized': torch.quantize_per_tensor(torch.rand(2), 0.1, 0, torch.quint8),
    **{str(kind): torch.ones(2, dtype=kind) for kind in (torch.bfloat16, torch.bool, torch.uint8)},
}


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('name', TENSORS)
def test_tensors_of_every_kind_are_read(tmp_path, name, zipped):
    path = saved({name: TENSORS[name]}, tmp_path / 'file.pth', zipped)
    loaded = load(path, map_location='cpu')[name]
    assert type(loaded) is type(TENSORS[name])
    assert loaded.dtype == TENSORS[name].dtype
    dense = torch.Tensor.to_dense if loaded.is_sparse else torch.clone
    assert torch.equal(dense(loaded), dense(TENSORS[name]))


def test_data_of_every_kind_is_read(tmp_path):
    content = collections.OrderedDict(
        numbers=[1, 2**40, -1.5, True, None, 1j],
        texts=('a', 'ü', b'bytes', bytearray(b'more')),
        nested={'set': {1, 2}, 'counter': collections.Counter('aab')},
        torchs=[torch.float32, torch.device('cpu'), torch.Size([1, 2])],
    )
    content._metadata = {'': {'version': 1}}
    loaded = load(saved(content, tmp_path / 'file.pth'))
    assert loaded == content
    assert loaded._metadata == content._metadata


def test_attributes_of_parameters_are_read(tmp_path):
    parameter = torch.nn.Parameter(torch.rand(2))
    parameter.note = 'kept'
    assert load(saved(parameter, tmp_path / 'file.pth')).note == 'kept'


def test_a_whole_training_state_is_read(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    content = {'model': model.state_dict(), 'optimizer': optimizer.state_dict()}
    loaded = load(saved(content, tmp_path / 'file.pth'))
    torch.optim.AdamW(model.parameters()).load_state_dict(loaded['optimizer'])
    assert all(map(torch.equal, loaded['model'].values(), content['model'].values()))


def test_a_file_object_is_read_from_where_it_stands():
    buffer = io.BytesIO()
    torch.save({'weight': torch.ones(2)}, buffer)
    buffer.seek(0)
    assert load(buffer)['weight'].tolist() == [1, 1]


# --- nothing runs -------------------------------------------------------------------------------


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('call', [os.mkdir, eval, exec, getattr, print])
def test_code_in_a_file_is_refused_and_named(tmp_path, call, zipped):
    made = tmp_path / 'made'
    path = saved({'x': Payload(call, str(made))}, tmp_path / 'file.pth', zipped)
    with pytest.raises(pickle.UnpicklingError, match=f'GLOBAL .*{call.__name__}'):
        load(path)
    assert not made.exists()


def test_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / 'program.pt'))
    for file in (tmp_path / 'program.pt', io.BytesIO((tmp_path / 'program.pt').read_bytes())):
        with pytest.raises(RuntimeError, match='TorchScript'):
            load(file)


def test_a_tar_file_is_refused_before_anything_is_unpacked(tmp_path):
    with tarfile.open(tmp_path / 'file.pth', 'w') as archive:
        archive.addfile(tarfile.TarInfo('storages'))
    with pytest.raises(pickle.UnpicklingError, match='tar'):
        load(tmp_path / 'file.pth')


SIZE = b'ctorch\nSize\n'
TRICKS = {
    'attributes of a class are set': SIZE + b'N}X\x01\x00\x00\x00aK\x01s\x86b',
    'what a list holds is called': b']K\x01\x85R',
    'a result is called': SIZE + b'(]tR(tR',
    'a result is created anew': SIZE + b'(]tR(t\x81',
    'items are set in a tensor': b'ctorch\nTensor\n)RK\x00K\x01s',
    'items are set in a class': SIZE + b'(K\x00K\x01u',
    'items are added to a size': SIZE + b')RK\x01a',
    'items are added to a class': SIZE + b'(K\x01e',
    'a module lies apart': b'(X\x06\x00\x00\x00modulectorch\nSize\nNNtQ',
    'a text names what lies apart': b'X\x01\x00\x00\x00aQ',
    'an object is made by INST': b'(ios\nmkdir\n',
    'an object is made by OBJ': b'(' + SIZE + b'o',
    'a name stands on the stack': b'X\x02\x00\x00\x00osX\x05\x00\x00\x00mkdir\x93',
    'an extension is named': b'\x82\x01',
}


@pytest.mark.parametrize('trick', TRICKS)
def test_opcodes_do_to_objects_only_what_torch_lets_them(trick):
    before = dict(vars(torch.Size))
    with pytest.raises(pickle.UnpicklingError):
        load(checkpoint_of(TRICKS[trick]))
    assert dict(vars(torch.Size)) == before


def test_the_head_of_the_hand_written_pickles_is_right():
    assert load(checkpoint_of(SIZE + b']K\x01a\x85R')) == torch.Size([1])
