"""``--launcher pytorch`` without a GPU: mmengine starts gloo, and only gloo in another way."""

import pytest
from mmengine.dist import utils

from pspnet_plugin.compat import gloo
from tests.helpers.processes import run_python

EXCHANGE = """
import os
os.environ.update(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1')
os.environ['MASTER_PORT'] = '0'
import torch
from mmengine.dist import all_reduce, get_backend, init_dist
from pspnet_plugin.compat.gloo import started_without_a_gpu
with {context}:
    init_dist('pytorch', backend={backend!r})
value = torch.ones(3)
all_reduce(value)
print(get_backend(), value.tolist())
"""


def exchange(backend, context='started_without_a_gpu()'):
    return run_python('-c', EXCHANGE.format(backend=backend, context=context))


def test_gloo_starts_exchanges_and_ends_cleanly():
    code, output = exchange('gloo')
    assert code == 0, output[-4000:]
    assert output.splitlines()[-1] == 'gloo [1.0, 1.0, 1.0]'


@pytest.mark.parametrize(
    ('backend', 'context'),
    [('gloo', '__import__("contextlib").nullcontext()'), ('nccl', 'started_without_a_gpu()')],
    ids=['stock', 'nccl'],
)
def test_mmengine_by_itself_and_other_backends_ask_for_a_cuda_device(backend, context):
    code, output = exchange(backend, context)
    assert code != 0
    assert 'set_device' in output


@pytest.mark.parametrize(('device', 'changed'), [('cpu', True), ('mps', True), ('cuda', False)])
def test_mmengine_is_changed_meanwhile_only_and_not_where_there_is_a_gpu(
    monkeypatch, device, changed
):
    monkeypatch.setattr(gloo, 'get_device', lambda: device)
    before = [utils._init_dist_pytorch, utils._init_dist_slurm]
    with gloo.started_without_a_gpu():
        within = [utils._init_dist_pytorch, utils._init_dist_slurm]
        assert [a is not b for a, b in zip(within, before)] == [changed] * 2
    assert [utils._init_dist_pytorch, utils._init_dist_slurm] == before
