"""Files that cannot be read are refused in one line, by mmengine's loaders and for pretraining."""

from __future__ import annotations

import contextlib
import os
import random
import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

from pspnet_plugin.errors import PspnetPluginError
from pspnet_plugin.pretrained import load_pretrained
from tests.campaigns.mutations import mutated, network, zipped_again
from tests.helpers.attacks import Payload
from tests.helpers.networks import saved

HAS_LIST = hasattr(torch.serialization, 'add_safe_globals')  # torch >= 2.4
VARIABLE = 'TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD'


class Checkpoints:
    """What mmengine's test tool, ``--resume``, ``load_from`` and ``Pretrained`` read."""

    allow_name = 'add_safe_globals' if HAS_LIST else f'{VARIABLE}=1'
    allow_all = f'{VARIABLE}=1'

    def read(self, path: Path) -> None:
        CheckpointLoader.load_checkpoint(str(path), map_location='cpu')

    def read_trusted(self, path: Path, monkeypatch) -> None:
        monkeypatch.setenv(VARIABLE, '1')
        self.read(path)


class PretrainedWeights:
    """What ``load_pretrained``, ``PretrainedBackbone`` and its hook read."""

    allow_name = allow_all = 'trust_pickle=True'

    def read(self, path: Path, **settings) -> None:
        ours = network(8, seed=1)
        before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
        try:
            load_pretrained(ours, str(path), **settings)
        except PspnetPluginError:
            assert all(torch.equal(before[name], t) for name, t in ours.state_dict().items())
            raise

    def read_trusted(self, path: Path, monkeypatch) -> None:
        self.read(path, trust_pickle=True)


@pytest.fixture(params=[Checkpoints, PretrainedWeights])
def door(request):
    return request.param()


def refused(door, path: Path, message: str) -> None:
    with pytest.raises(PspnetPluginError, match=message) as raised:
        door.read(path)
    assert path.name in str(raised.value)
    assert '\n' not in str(raised.value)


@pytest.fixture(params=[True, False], ids=['zip', 'old'])
def save(request, tmp_path):
    """``torch.save`` in one of its formats."""

    def save(content: object, name: str = 'weights.pth', **options) -> Path:
        torch.save(
            content, tmp_path / name, _use_new_zipfile_serialization=request.param, **options
        )
        return tmp_path / name

    return save


# --- what would run code ------------------------------------------------------------------------


@pytest.mark.parametrize('call', [os.mkdir, eval, getattr])
@pytest.mark.parametrize('name', ['attack.pth', 'attack.bin'])
def test_code_is_refused_by_name_and_does_not_run(door, save, tmp_path, monkeypatch, call, name):
    mark = tmp_path / 'was_here'
    arguments = {
        os.mkdir: (str(mark),),
        eval: (f'__import__("os").mkdir({str(mark)!r})',),
        getattr: (HistoryBuffer, '__init__'),
    }[call]
    content = {'state_dict': network(8).state_dict(), 'extra': Payload(call, *arguments)}
    file = save(content, name)
    refused(door, file, rf'holds .*{call.__name__}.* is not data.*{door.allow_name}')
    assert not mark.exists()
    door.read_trusted(file, monkeypatch)
    assert mark.exists() == (call is not getattr)


@pytest.mark.parametrize('protocol', [3, 4, 5])
def test_a_later_pickle_protocol_is_read_or_the_way_to_allow_it_is_named(
    door, save, monkeypatch, protocol
):
    file = save(network(8).state_dict(), pickle_protocol=protocol)
    if protocol > 3:
        refused(door, file, f'pickle_protocol={protocol}.*{door.allow_all}')
        door.read_trusted(file, monkeypatch)
    else:
        door.read(file)


def test_a_torchscript_program_is_refused(door, tmp_path):
    torch.jit.script(nn.Conv2d(1, 1, 1)).save(str(tmp_path / 'program.pth'))
    refused(door, tmp_path / 'program.pth', r'is a TorchScript program.*state_dict\(\)')


def test_an_exported_network_is_refused_with_what_to_name(door, tmp_path):
    (tmp_path / 'mine.onnx').write_bytes(b'\x08\x08\x12\x07pytorch')
    refused(door, tmp_path / 'mine.onnx', r'name the \.pth file that it was exported from\.$')


# --- what is broken -----------------------------------------------------------------------------


@pytest.mark.parametrize('share', [0.02, 0.5, 0.99])
def test_a_cut_file_is_refused(door, save, share):
    file = save(network(8).state_dict())
    data = file.read_bytes()
    file.write_bytes(data[: int(share * len(data))])
    refused(door, file, r'weights\.pth is (cut or broken|damaged)')


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', 'is empty'),
        (b'X', "is a text that begins with 'X'"),
        (b'these are my weights', "is a text that begins with 'these are my weights'"),
        (b'<!DOCTYPE html><html>Sign in</html>', 'is a web page'),
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:1', 'git lfs pull'),
        (b'PK\x03\x04', 'is cut or broken'),
        (bytes(300), 'is cut or broken'),
    ],
)
def test_a_file_of_something_else_is_refused_and_named(door, tmp_path, content, message):
    (tmp_path / 'weights.pth').write_bytes(content)
    refused(door, tmp_path / 'weights.pth', message)


def test_a_zip_of_something_else_is_refused(door, tmp_path):
    with zipfile.ZipFile(tmp_path / 'other.pth', 'w') as archive:
        archive.writestr('readme.txt', 'hello')
    refused(door, tmp_path / 'other.pth', 'is cut or broken')


def test_any_byte_of_the_values_that_changes_is_noticed(door, tmp_path):
    file = Path(saved(network(8), tmp_path / 'weights.pth'))
    whole = file.read_bytes()
    values = network(8)[2].weight.detach().numpy().tobytes()
    start, chance = whole.index(values), random.Random(0)
    for _ in range(25):
        data = bytearray(whole)
        data[start + chance.randrange(len(values))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        refused(door, file, r'weights\.pth is damaged: the checksum of')


def test_a_file_that_unpacks_to_many_times_its_size_is_refused_unread(door, tmp_path):
    torch.save({'weight': torch.zeros(1 << 23)}, tmp_path / 'large.pth')
    refused(
        door,
        zipped_again(tmp_path / 'large.pth', zipfile.ZIP_DEFLATED),
        r'would take 33,\d+,\d+ unpacked',
    )


def test_a_zip_directory_that_says_impossible_things_is_refused(door, tmp_path):
    file = Path(saved(network(8), tmp_path / 'weights.pth'))
    data = bytearray(file.read_bytes())
    data[data.rindex(b'PK\x06\x07') + 16] = 5  # the number of disks
    file.write_bytes(data)
    refused(door, file, r'weights\.pth')


@pytest.mark.parametrize('kind', ['checkpoint', 'weights'])
def test_a_mutated_file_is_read_or_refused(door, save, kind):
    content = {'state_dict': network(8).state_dict(), 'loss': HistoryBuffer([1.0], [1])}
    file = save(content if kind == 'checkpoint' else network(8).state_dict())
    whole, chance = file.read_bytes(), random.Random(0)
    for _ in range(100):
        file.write_bytes(mutated(whole, chance))
        with contextlib.suppress(PspnetPluginError):
            door.read(file)


def test_a_link_to_nothing_is_named(door, tmp_path):
    (tmp_path / 'latest.pth').symlink_to(tmp_path / 'iter_40.pth')
    refused(door, tmp_path / 'latest.pth', r'latest\.pth is a link to .*iter_40\.pth')
