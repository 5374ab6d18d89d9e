"""``--launcher pytorch`` without a GPU: mmengine starts gloo, and only gloo in another way."""

import pytest

from tests.helpers.processes import run_python

EXCHANGE = """
import os
os.environ.update(RANK='0', LOCAL_RANK='0', WORLD_SIZE='1', MASTER_ADDR='127.0.0.1')
os.environ['MASTER_PORT'] = '0'
{imported}
import torch
from mmengine.dist import all_reduce, get_backend, init_dist
init_dist('pytorch', backend={backend!r})
value = torch.ones(3)
all_reduce(value)
print(get_backend(), value.tolist())
"""


def exchange(backend, imported=''):
    return run_python('-c', EXCHANGE.format(backend=backend, imported=imported))


def test_gloo_starts_exchanges_and_ends_cleanly_with_the_plugin():
    code, output = exchange('gloo', 'import pspnet_plugin')
    assert code == 0, output[-4000:]
    assert output.splitlines()[-1] == 'gloo [1.0, 1.0, 1.0]'


@pytest.mark.parametrize(
    ('backend', 'imported'), [('gloo', ''), ('nccl', 'import pspnet_plugin')], ids=['stock', 'nccl']
)
def test_stock_mmengine_and_other_backends_ask_for_a_cuda_device(backend, imported):
    code, output = exchange(backend, imported)
    assert code != 0
    assert 'set_device' in output


def test_nothing_is_changed_where_there_is_a_gpu(monkeypatch):
    from pspnet_plugin import compat

    monkeypatch.setattr(compat, 'get_device', lambda: 'cuda')
    monkeypatch.setattr(compat.gloo, 'patch', lambda: pytest.fail('was called'))
    compat.apply()
