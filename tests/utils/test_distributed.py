import pytest

from pspnet_plugin.utils.distributed import is_first_process


@pytest.mark.parametrize(
    ('numbers', 'first'),
    [
        ({}, True),
        ({'RANK': '0'}, True),
        ({'RANK': '3'}, False),
        ({'SLURM_PROCID': '0'}, True),
        ({'SLURM_PROCID': '1'}, False),
        # srun starts torchrun once on each machine, which starts the processes that count.
        ({'RANK': '0', 'SLURM_PROCID': '1'}, True),
        ({'RANK': '2', 'SLURM_PROCID': '0'}, False),
    ],
)
def test_the_first_process_is_known_before_processes_are_connected(monkeypatch, numbers, first):
    for name in ('RANK', 'SLURM_PROCID'):
        monkeypatch.delenv(name, raising=False)
    for name, number in numbers.items():
        monkeypatch.setenv(name, number)

    assert is_first_process() is first
