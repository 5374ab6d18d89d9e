"""Files that are valid and unusual, that are damaged, and that were made to do harm."""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pspnet_plugin.pretrained import PretrainedWeightsError, load_pretrained
from pspnet_plugin.pretrained.errors import WeightsFileError
from pspnet_plugin.pretrained.source.read import read_checkpoint
from tests.campaigns.mutations import FORMATS, mutated_files, network
from tests.helpers.networks import saved


def refused(content: object, folder: Path, message: str) -> None:
    with pytest.raises(PretrainedWeightsError, match=message):
        load_pretrained(network(8, seed=1), saved(content, folder / 'weights.pth'))


def require_loads(file: Path, **settings) -> None:
    ours, theirs = network(8, seed=1), network(8).state_dict()
    assert load_pretrained(ours, str(file), **settings).coverage == 1
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.state_dict().items())


def zipped_again(file: Path, method: int) -> Path:
    again = file.with_name('again.pth')
    with zipfile.ZipFile(file) as archive, zipfile.ZipFile(again, 'w', method) as other:
        for name in archive.namelist():
            other.writestr(name, archive.read(name))
    return again


# --- valid files --------------------------------------------------------------------------------


@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_file_that_was_zipped_again_loads_with_its_values(tmp_path, method):
    file = Path(saved(network(8), tmp_path / 'weights.pth'))
    require_loads(zipped_again(file, method))


@pytest.mark.parametrize('protocol', [3, 4, 5])
@pytest.mark.parametrize('zipped', [True, False])
def test_a_later_pickle_protocol_loads_or_the_setting_that_loads_it_is_named(
    tmp_path, protocol, zipped
):
    file = tmp_path / 'weights.pth'
    torch.save(
        network(8).state_dict(),
        file,
        pickle_protocol=protocol,
        _use_new_zipfile_serialization=zipped,
    )
    if protocol > 3:
        with pytest.raises(
            PretrainedWeightsError, match=f'pickle_protocol={protocol}.*trust_pickle=True'
        ):
            load_pretrained(network(8, seed=1), str(file))
    require_loads(file, trust_pickle=protocol > 3)


@pytest.mark.skipif(
    not hasattr(torch.serialization, 'set_crc32_options'),
    reason=f'torch {torch.__version__} always writes checksums',
)
def test_a_file_that_was_saved_without_checksums_loads(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        file = saved(network(8), tmp_path / 'weights.pth')
    finally:
        torch.serialization.set_crc32_options(True)
    require_loads(Path(file))


def test_weights_that_stand_under_two_keys_are_reached_under_both(tmp_path):
    weights = network(8).state_dict()
    file = saved({'state_dict': weights, 'other': {'again': weights}}, tmp_path / 'weights.pth')
    require_loads(Path(file))
    require_loads(Path(file), prefix='other.again.')


# --- damaged files ------------------------------------------------------------------------------


def test_any_byte_of_the_values_that_changes_is_noticed(tmp_path):
    file = Path(saved(network(8), tmp_path / 'weights.pth'))
    whole = file.read_bytes()
    values = network(8)[2].weight.detach().numpy().tobytes()
    start, chance = whole.index(values), random.Random(0)
    for _ in range(50):
        data = bytearray(whole)
        data[start + chance.randrange(len(values))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)
        with pytest.raises(WeightsFileError, match=r'weights\.pth is damaged: the checksum of'):
            read_checkpoint(file)


def test_a_file_that_unpacks_to_many_times_its_size_is_refused_unread(tmp_path):
    torch.save({'weight': torch.zeros(1 << 23)}, tmp_path / 'large.pth')
    packed = zipped_again(tmp_path / 'large.pth', zipfile.ZIP_DEFLATED)
    with pytest.raises(WeightsFileError, match=r'would take 33,\d+,\d+ unpacked'):
        read_checkpoint(packed)


def test_a_zip_directory_that_says_impossible_things_is_refused(tmp_path):
    file = Path(saved(network(8), tmp_path / 'weights.pth'))
    data = bytearray(file.read_bytes())
    locator = data.rindex(b'PK\x06\x07')
    data[locator + 16] = 5  # the number of disks
    file.write_bytes(data)
    with pytest.raises(WeightsFileError, match=r'weights\.pth'):
        read_checkpoint(file)


@pytest.mark.parametrize('kind', FORMATS)
def test_a_mutated_file_loads_or_is_refused(tmp_path, kind):
    ours = network(8)
    for file in mutated_files(kind, 100, tmp_path):
        with contextlib.suppress(PretrainedWeightsError):
            load_pretrained(ours, str(file))


# --- dicts that are no tree ---------------------------------------------------------------------


def nested(levels: int) -> dict:
    content: dict = {}
    for _ in range(levels):
        content = {'a': content}
    return content


def shared(levels: int) -> dict:
    content: dict = {'weight': torch.ones(2)}
    for _ in range(levels):
        content = {'a': content, 'b': content}
    return content


def holding_itself(key: str) -> dict:
    content = dict(network(8).state_dict())
    content[key] = content
    return content


@pytest.mark.parametrize('key', ['model', 'state_dict', 'self'])
def test_a_dict_that_holds_itself_is_refused(tmp_path, key):
    refused(holding_itself(key), tmp_path, 'a dict that holds itself')


def test_a_dict_that_is_shared_forty_times_is_refused(tmp_path):
    refused(shared(40), tmp_path, 'more than 100,000 values')
    refused({'model': shared(40)}, tmp_path, 'more than 100,000 values')


def test_dicts_that_are_nested_five_thousand_deep_are_refused(tmp_path):
    # As torch.save() would write them, which cannot: a pickle of the format before torch 1.6.
    parts = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}]
    deep = b'\x80\x02' + b'}X\x01\x00\x00\x00a' * 5000 + b'}' + b's' * 5000 + b'.'
    data = [*(pickle.dumps(part, 2) for part in parts), deep, pickle.dumps([], 2)]
    (tmp_path / 'deep.pth').write_bytes(b''.join(data))
    with pytest.raises(PretrainedWeightsError, match='more than 100 deep'):
        load_pretrained(network(8), str(tmp_path / 'deep.pth'))


# --- values that are none -----------------------------------------------------------------------


@pytest.mark.parametrize('name', ['0.weight', '0.more', 'other'])
def test_a_tensor_whose_shape_is_larger_than_its_values_is_refused(tmp_path, name):
    content = {**network(8).state_dict(), name: torch.zeros(1).expand(1 << 20, 1 << 20)}
    refused(content, tmp_path, rf'{name} in the file has the shape \[1048576, 1048576\]')


def test_a_small_buffer_that_was_expanded_loads(tmp_path):
    ours = nn.Module()
    ours.register_buffer('positions', torch.zeros(8, 4))
    file = saved({'positions': torch.arange(4.0).expand(8, 4)}, tmp_path / 'weights.pth')
    assert load_pretrained(ours, file).coverage == 1
    assert ours.positions[7].tolist() == [0, 1, 2, 3]


def four_bits(count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)


@pytest.mark.skipif(not hasattr(torch, 'float4_e2m1fn_x2'), reason='torch >= 2.8')
@pytest.mark.parametrize('name', ['1.weight', '1.more', 'other'])
def test_numbers_of_four_bits_are_refused_where_they_are_wanted(tmp_path, name):
    content = {**network(8).state_dict(), name: four_bits(8)}
    if name == 'other':
        require_loads(Path(saved(content, tmp_path / 'weights.pth')))
    elif name == '1.more':
        refused(content, tmp_path, r'has 1 tensors inside the layers .* 1\.more')
    else:
        refused(content, tmp_path, r'1\.weight .*float4_e2m1fn_x2')


@pytest.mark.parametrize('name', ['0.more', 'other'])
def test_a_sparse_tensor_of_any_size_is_not_unpacked(tmp_path, name):
    sparse = torch.sparse_coo_tensor(torch.zeros(2, 1).long(), torch.ones(1), (1 << 30, 1 << 30))
    content = {**network(8).state_dict(), name: sparse}
    if name == 'other':
        require_loads(Path(saved(content, tmp_path / 'weights.pth')))
    else:
        refused(content, tmp_path, r'has 1 tensors inside the layers .* 0\.more')


def test_a_state_dict_that_is_a_list_has_no_names(tmp_path):
    refused(
        {'state_dict': [torch.zeros(3)]}, tmp_path, r'no tensors by name\. Save model\.state_dict'
    )


def test_a_link_to_nothing_is_named(tmp_path):
    os.symlink(tmp_path / 'iter_80.pth', tmp_path / 'latest.pth')
    with pytest.raises(PretrainedWeightsError, match=r'latest\.pth is a link to .*iter_80\.pth'):
        load_pretrained(network(8), str(tmp_path / 'latest.pth'))
