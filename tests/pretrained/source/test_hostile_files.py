"""Files that are valid and unusual, that are damaged, and that were made to do harm."""

from __future__ import annotations

import contextlib
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pspnet_plugin.pretrained import PretrainedWeightsError, load_pretrained
from tests.helpers.mutations import FORMATS, mutated_files, network, zipped_again
from tests.helpers.networks import saved


def refused(content: object, folder: Path, message: str) -> None:
    with pytest.raises(PretrainedWeightsError, match=message):
        load_pretrained(network(8, seed=1), saved(content, folder / 'weights.pth'))


def require_loads(file: Path, **settings) -> None:
    ours, theirs = network(8, seed=1), network(8).state_dict()
    assert load_pretrained(ours, str(file), **settings).coverage == 1
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.state_dict().items())


# --- valid files --------------------------------------------------------------------------------


@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_file_that_was_zipped_again_loads_with_its_values(tmp_path, method):
    file = Path(saved(network(8), tmp_path / 'weights.pth'))
    require_loads(zipped_again(file, method))


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
