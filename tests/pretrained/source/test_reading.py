"""Files: formats, broken ones, and ones that would run code."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from pspnet_plugin.pretrained import PretrainedWeightsError, load_pretrained
from pspnet_plugin.pretrained.source.read import read_checkpoint
from tests.campaigns import mutations
from tests.campaigns.mutations import mutated_files, zipped_again
from tests.helpers.attacks import Payload
from tests.helpers.networks import refused as refused_for
from tests.helpers.networks import saved
from tests.helpers.torch_features import saved_without_checksums, skip_unless_saved


def network(seed: int = 0) -> nn.Module:
    return mutations.network(8, seed)


def refused(file: object, message: str, **settings) -> None:
    refused_for(network(seed=1), file, message, **settings)


@pytest.fixture
def file(tmp_path) -> Path:
    return Path(saved(network(), tmp_path / 'weights.pth'))


def require_loads(file: object, **settings) -> None:
    ours = network(seed=1)
    assert load_pretrained(ours, str(file), **settings).coverage == 1
    assert equal(ours, network())


def equal(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items())


# --- what can be read ---------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['weights.pth', 'weights.pt', 'weights.ckpt', 'weights'])
@pytest.mark.parametrize('zipped', [True, False])
def test_files_of_torch_save_load_whatever_their_name(tmp_path, name, zipped):
    torch.save(network().state_dict(), tmp_path / name, _use_new_zipfile_serialization=zipped)
    require_loads(tmp_path / name)


def test_a_safetensors_header_of_any_length_is_told_from_a_pickle(tmp_path):
    file = tmp_path / 'weights.safetensors'
    for length in range(0, 256, 8):
        padding = {'padding': 'x' * length}
        safetensors.torch.save_file({'weight': torch.ones(2)}, file, metadata=padding)
        assert list(read_checkpoint(file).tensors) == ['weight'], file.read_bytes()[:9]


def test_safetensors_load(tmp_path):
    safetensors.torch.save_file(network().state_dict(), tmp_path / 'weights.safetensors')
    require_loads(tmp_path / 'weights.safetensors')


@pytest.mark.parametrize('key', ['state_dict', 'model', 'model_state_dict', 'teacher'])
def test_the_usual_top_level_keys_are_found(tmp_path, key):
    content = {'epoch': 3, key: network().state_dict(), 'optimizer': {'state': {0: {}}}}
    ours = network(seed=1)
    report = load_pretrained(ours, saved(content, tmp_path / 'weights.pth'))
    assert (report.coverage, report.container) == (1, key)
    assert equal(ours, network())


@pytest.mark.parametrize('key', ['module', 'net', 'weights', 'params', 'params_ema'])
def test_rarer_top_level_keys_are_taken_and_named(tmp_path, key):
    ours = network(seed=1)
    content = {'epoch': 3, key: network().state_dict()}
    report = load_pretrained(ours, saved(content, tmp_path / 'weights.pth'))
    assert equal(ours, network())
    assert report.notes == [f'the weights stand under the top-level key {key!r}']


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.last = self.first


def test_tied_weights_of_save_model_load_under_all_their_names(tmp_path):
    network, file = Tied(), tmp_path / 'weights.safetensors'
    safetensors.torch.save_model(network, str(file))
    assert len(safetensors.torch.load_file(file)) == 2
    ours = Tied()
    assert load_pretrained(ours, file).received == 4
    assert torch.equal(ours.last.weight, network.first.weight)
    # Also into a module that keeps two tensors where the file has one.
    apart = Tied()
    apart.last = nn.Linear(4, 4)
    assert load_pretrained(apart, file).received == 4


# --- checkpoints in several files -----------------------------------------------------------------


@pytest.fixture(params=['safetensors', 'bin'])
def sharded(tmp_path, request):
    """A folder with an index and two shards, as huggingface_hub and transformers write them."""
    folder, names = tmp_path / 'model', {}
    folder.mkdir()
    for number, part in enumerate(np.array_split(list(network().state_dict()), 2), 1):
        file = f'model-{number:05}-of-00002.{request.param}'
        content = {str(name): network().state_dict()[name] for name in part}
        save = safetensors.torch.save_file if request.param == 'safetensors' else torch.save
        save(content, str(folder / file))
        names |= dict.fromkeys(content, file)
    index = folder / f'model.{request.param}.index.json'
    index.write_text(json.dumps({'metadata': {'total_size': 1}, 'weight_map': names}))
    return index


@pytest.mark.parametrize('by', ['index', 'folder'])
def test_shards_load_by_their_index_or_folder(sharded, by):
    require_loads(sharded if by == 'index' else sharded.parent)


def test_one_shard_is_told_from_a_whole_file(sharded):
    shard = next(sharded.parent.glob('*-00001-of-00002*'))
    with pytest.raises(PretrainedWeightsError, match='one of several. Name their folder, or the'):
        load_pretrained(network(), shard)


def test_a_missing_shard_and_a_hash_of_the_index_are_errors(sharded):
    with pytest.raises(PretrainedWeightsError, match='Leave sha256 out'):
        load_pretrained(network(), sharded, sha256='0' * 64)
    shard = next(sharded.parent.glob('*-00002-of-00002*'))
    shard.unlink()
    with pytest.raises(PretrainedWeightsError, match=f'{shard.name} is missing: fetch all'):
        load_pretrained(network(), sharded)


@pytest.mark.parametrize(
    'content', ['{', '[]', '{"weight_map": 3}', '{"weight_map": {"a": "../b"}}']
)
def test_an_index_that_is_none_is_an_error(tmp_path, content):
    index = tmp_path / 'model.safetensors.index.json'
    index.write_text(content)
    with pytest.raises(PretrainedWeightsError, match='is no index of shards .*weight_map'):
        load_pretrained(network(), index)


def test_a_folder_with_one_file_of_weights_leads_to_it(tmp_path):
    refused(tmp_path, 'is a folder with 0 files of weights')
    torch.save(network().state_dict(), tmp_path / 'weights.pth')
    (tmp_path / 'config.json').write_text('{}')
    require_loads(tmp_path)
    torch.save(network().state_dict(), tmp_path / 'other.pth')
    with pytest.raises(PretrainedWeightsError, match=r'2 files of weights: other.*Name the one'):
        load_pretrained(network(), tmp_path)


@pytest.mark.parametrize('kind', ['float16', 'bfloat16', 'float64', 'float8_e4m3fn'])
def test_other_precisions_go_into_a_float32_module(tmp_path, kind):
    if not hasattr(torch, kind):
        pytest.skip(f'torch {torch.__version__} has no {kind}')
    dtype = getattr(torch, kind)
    skip_unless_saved(dtype)
    rounded = network().to(dtype)
    ours = network(seed=1)
    assert load_pretrained(ours, saved(rounded, tmp_path / 'weights.pth')).coverage == 1
    assert ours[0].weight.dtype == torch.float32
    assert equal(ours, rounded.float())


def test_weights_under_an_unknown_key_are_refused_and_reached_by_the_prefix_that_is_named(
    tmp_path,
):
    file = saved({'generator': network().state_dict(), 'epoch': 1}, tmp_path / 'weights.pth')
    refused(file, r"top-level key 'generator'.*prefix='generator\.'")
    require_loads(file, prefix='generator.')


@pytest.mark.parametrize('method', [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_file_that_was_zipped_again_loads_with_its_values(tmp_path, method):
    file = Path(saved(network(), tmp_path / 'weights.pth'))
    require_loads(zipped_again(file, method))


def test_a_file_that_was_saved_without_checksums_loads(tmp_path):
    with saved_without_checksums():
        file = saved(network(), tmp_path / 'weights.pth')
    require_loads(file)


def test_weights_that_stand_under_two_keys_are_reached_under_both(tmp_path):
    weights = network().state_dict()
    file = saved({'state_dict': weights, 'other': {'again': weights}}, tmp_path / 'weights.pth')
    require_loads(file)
    require_loads(file, prefix='other.again.')


# --- what is broken -----------------------------------------------------------------------------


def test_a_missing_file_is_named_with_what_lies_beside_it(file):
    refused(file.with_name('weight.pth'), r'no file .*weight\.pth.*Did you mean weights\.pth')


def safetensors_file(header: bytes, data: bytes = b'') -> bytes:
    return struct.pack('<Q', len(header)) + header + data


def entry(start: int, end: int, dtype: str = 'F32') -> str:
    return f'{{"dtype":"{dtype}","shape":[2],"data_offsets":[{start},{end}]}}'


def test_a_safetensors_file_that_is_cut_anywhere_is_refused(tmp_path):
    whole = safetensors.torch.save({'weight': torch.ones(5), 'bias': torch.ones(1)})
    file = tmp_path / 'cut.safetensors'
    for size in range(len(whole)):
        file.write_bytes(whole[:size])
        with pytest.raises(PretrainedWeightsError, match=re.escape(str(file))):
            read_checkpoint(file)


@pytest.mark.parametrize(
    'content',
    [
        safetensors_file(f'{{"a":{entry(0, 8)}}}'.encode(), bytes(9)),
        safetensors_file(f'{{"a":{entry(0, 8)},"b":{entry(4, 12)}}}'.encode(), bytes(12)),
        safetensors_file(f'{{"a":{entry(0, 8)},"b":{entry(12, 20)}}}'.encode(), bytes(20)),
        safetensors_file(f'{{"a":{entry(0, 12)}}}'.encode(), bytes(12)),
        safetensors_file(f'{{"a":{entry(0, 8, "F33")}}}'.encode(), bytes(8)),
        safetensors_file(b'{"a":{}}'),
        safetensors_file(b'{"a":1}'),
        safetensors_file(b'{"a":' * 10000 + b'1' + b'}' * 10000),
        struct.pack('<Q', 1 << 62) + b'{"a":1}',
    ],
    ids=['tail', 'overlap', 'gap', 'shape', 'dtype', 'no entry', 'number', 'nesting', 'length'],
)
def test_a_safetensors_file_with_a_wrong_header_is_refused_with_a_way_out(tmp_path, content):
    (tmp_path / 'wrong.safetensors').write_bytes(content)
    refused(tmp_path / 'wrong.safetensors', r'wrong\.safetensors is cut or broken.*Fetch the file')


def test_a_file_without_permission_is_refused(file):
    file.chmod(0)
    file.parent.chmod(0o755)
    as_root = os.geteuid() == 0
    parents = [p for p in file.parents if as_root and p.stat().st_uid == 0 and p != Path('/')]
    modes = {p: p.stat().st_mode for p in parents}
    for parent in parents:
        parent.chmod(modes[parent] | 0o555)
    if as_root:
        os.seteuid(65534)
    try:
        refused(file, 'Permission denied')
    finally:
        if as_root:
            os.seteuid(0)
        for parent in parents:
            parent.chmod(modes[parent])


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('name', ['2.weight', '1.bias', '1.running_var'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16])
def test_values_that_are_not_finite_are_refused_with_the_name_of_the_tensor(
    tmp_path, name, value, dtype
):
    broken = network().to(dtype)
    with torch.no_grad():
        broken.state_dict()[name].view(-1)[-1] = value
    refused(saved(broken, tmp_path / 'weights.pth'), rf'has in {name} NaN')


@pytest.mark.parametrize(('dtype', 'target'), [('float64', 'float32'), ('float32', 'float16')])
def test_values_too_large_for_the_module_are_refused(tmp_path, dtype, target):
    dtype, target = getattr(torch, dtype), getattr(torch, target)
    large = network().to(dtype)
    with torch.no_grad():
        large[1].running_var[3] = 2 * torch.finfo(target).max
    file = saved(large, tmp_path / 'weights.pth')
    with pytest.raises(
        PretrainedWeightsError, match=rf'1\.running_var .*too large for the {target}'
    ):
        load_pretrained(network(seed=1).to(target), file)
    assert load_pretrained(network(seed=1).to(dtype), file).coverage == 1


def test_names_that_are_numbers_are_read_as_texts(tmp_path):
    content = {index: torch.ones(2, 2) for index in range(3)}
    ours = nn.ParameterList(torch.zeros(2, 2) for _ in range(3))
    assert load_pretrained(ours, saved(content, tmp_path / 'weights.pth')).coverage == 1


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({}, 'holds no tensors'),
        ({'state_dict': {}}, 'holds no tensors'),
        ({'epoch': 3}, 'holds no tensors'),
        ({'state_dict': [torch.zeros(3)]}, r'no tensors by name\. Save model\.state_dict'),
        ([torch.zeros(3)], 'holds a list, not a state dict'),
        (torch.zeros(3), 'holds a Tensor, not a state dict'),
    ],
)
def test_a_file_without_a_state_dict_is_refused(tmp_path, content, message):
    refused(saved(content, tmp_path / 'weights.pth'), message)


# --- what would run code ------------------------------------------------------------------------


@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_a_pickle_of_arrays_that_would_run_code_is_refused(tmp_path, protocol):
    mark = tmp_path / 'was_here'
    arrays = {name: tensor.numpy() for name, tensor in network().state_dict().items()}
    file = tmp_path / 'weights.pkl'
    file.write_bytes(pickle.dumps({'model': arrays}, protocol))
    require_loads(file)
    content = {'model': arrays, 'extra': Payload(os.mkdir, str(mark))}
    file.write_bytes(pickle.dumps(content, protocol))
    refused(file, 'is a text' if protocol == 0 else 'trust_pickle=True')
    assert not mark.exists()


def test_a_pickle_of_arrays_that_is_cut_is_refused(tmp_path):
    arrays = {name: tensor.numpy() for name, tensor in network().state_dict().items()}
    content, file = pickle.dumps({'model': arrays}, 4), tmp_path / 'weights.pkl'
    for length in range(0, len(content), len(content) // 50):
        file.write_bytes(content[:length])
        refused(file, 'cut or broken')


def test_a_file_of_torch_save_may_be_called_pkl(tmp_path):
    require_loads(saved(network(), tmp_path / 'weights.pkl'))


def test_a_pickle_that_calls_itself_safetensors_is_refused_even_where_it_is_trusted(tmp_path):
    mark = tmp_path / 'was_here'
    content = {'state_dict': network().state_dict(), 'extra': Payload(os.mkdir, str(mark))}
    file = saved(content, tmp_path / 'attack.safetensors')
    refused(file, r'named \.safetensors', trust_pickle=True)
    assert not mark.exists()


@pytest.mark.parametrize('kind', ['pickle in a zip', 'safetensors'])
def test_a_mutated_file_loads_or_is_refused(tmp_path, kind):
    ours = network()
    for file in mutated_files(kind, 100, tmp_path):
        with contextlib.suppress(PretrainedWeightsError):
            load_pretrained(ours, str(file))


# --- dicts that are no tree ---------------------------------------------------------------------


def shared(levels: int) -> dict:
    content: dict = {'weight': torch.ones(2)}
    for _ in range(levels):
        content = {'a': content, 'b': content}
    return content


def holding_itself(key: str) -> dict:
    content = dict(network().state_dict())
    content[key] = content
    return content


@pytest.mark.parametrize('key', ['model', 'state_dict', 'self'])
def test_a_dict_that_holds_itself_is_refused(tmp_path, key):
    refused(saved(holding_itself(key), tmp_path / 'weights.pth'), 'a dict that holds itself')


def test_a_dict_that_is_shared_forty_times_is_refused(tmp_path):
    refused(saved(shared(40), tmp_path / 'weights.pth'), 'more than 100,000 values')
    refused(saved({'model': shared(40)}, tmp_path / 'weights.pth'), 'more than 100,000 values')


def test_dicts_that_are_nested_five_thousand_deep_are_refused(tmp_path):
    # As torch.save() would write them, which cannot: a pickle of the format before torch 1.6.
    parts = [torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION, {}]
    deep = b'\x80\x02' + b'}X\x01\x00\x00\x00a' * 5000 + b'}' + b's' * 5000 + b'.'
    data = [*(pickle.dumps(part, 2) for part in parts), deep, pickle.dumps([], 2)]
    (tmp_path / 'deep.pth').write_bytes(b''.join(data))
    with pytest.raises(PretrainedWeightsError, match='more than 100 deep'):
        load_pretrained(network(), str(tmp_path / 'deep.pth'))


# --- values that are none -----------------------------------------------------------------------


@pytest.mark.parametrize('name', ['0.weight', '0.more', 'other'])
def test_a_tensor_whose_shape_is_larger_than_its_values_is_refused(tmp_path, name):
    content = {**network().state_dict(), name: torch.zeros(1).expand(1 << 20, 1 << 20)}
    refused(
        saved(content, tmp_path / 'weights.pth'),
        rf'{name} in the file has the shape \[1048576, 1048576\]',
    )


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
    file = saved({**network().state_dict(), name: four_bits(8)}, tmp_path / 'weights.pth')
    if name == 'other':
        require_loads(file)
    elif name == '1.more':
        refused(file, r'has 1 tensors inside the layers .* 1\.more')
    else:
        refused(file, r'1\.weight .*float4_e2m1fn_x2')


@pytest.mark.parametrize('name', ['0.more', 'other'])
def test_a_sparse_tensor_of_any_size_is_not_unpacked(tmp_path, name):
    sparse = torch.sparse_coo_tensor(torch.zeros(2, 1).long(), torch.ones(1), (1 << 30, 1 << 30))
    file = saved({**network().state_dict(), name: sparse}, tmp_path / 'weights.pth')
    if name == 'other':
        require_loads(file)
    else:
        refused(file, r'has 1 tensors inside the layers .* 0\.more')
