"""The shell scripts: what they ask torchrun and srun for, and training as Slurm starts it."""

from __future__ import annotations

import os
import subprocess

import pytest
import torch

from tests.helpers.processes import ROOT, run_script, run_two
from tests.helpers.slurm import slurm, slurm_variables
from tests.helpers.street_scenes import NARROW_MODEL, small_run_options

TOOLS = ROOT / 'tools'
CONFIG = ROOT / 'configs' / 'psp_r50_cityscapes.py'


@pytest.fixture
def asked(tmp_path):
    """Runs a script with a torchrun and a srun that only show what they are asked for."""
    path = slurm(tmp_path, os.environ['PATH'])
    (tmp_path / 'bin' / 'torchrun').symlink_to(tmp_path / 'bin' / 'srun')

    def run(script, *words, code=0, **variables):
        done = subprocess.run(
            ['bash', TOOLS / script, *words],
            env={**os.environ, **variables, 'PATH': path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == code
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_torchrun_is_handed_everything(asked, script):
    positional = ['config.py', '2'] if 'train' in script else ['config.py', 'last.pth', '2']
    machines = {'NNODES': '3', 'NODE_RANK': '1', 'MASTER_ADDR': 'first', 'PORT': '29511'}
    words = asked(script, *positional, '--work-dir', 'with space', **machines)
    tool = TOOLS / script[len('dist_') :].replace('.sh', '.py')
    assert words == [
        *('--nnodes=3', '--node_rank=1', '--nproc_per_node=2'),
        *('--master_addr=first', '--master_port=29511'),
        *(str(tool), *positional[:-1], '--launcher', 'pytorch', '--work-dir', 'with space'),
    ]


def test_srun_is_asked_for_one_process_for_each_gpu(asked):
    options = {'GPUS': '2', 'GPUS_PER_NODE': '2', 'SRUN_ARGS': '--quiet --time=10'}
    words = asked('slurm_train.sh', 'a_partition', 'a_job', 'config.py', '--x', 'a b', **options)
    assert words == [
        *('--partition=a_partition', '--job-name=a_job', '--gres=gpu:2', '--ntasks=2'),
        *('--ntasks-per-node=2', '--cpus-per-task=5', '--kill-on-bad-exit=1'),
        *('--quiet', '--time=10', 'python', '-u', str(TOOLS / 'train.py')),
        *('config.py', '--launcher', 'slurm', '--x', 'a b'),
    ]
    said = asked('slurm_train.sh', 'a_partition', code=2)
    assert 'PARTITION JOB_NAME CONFIG' in ' '.join(said)


def test_processes_of_slurm_train_one_model(street_scenes, tmp_path, monkeypatch):
    monkeypatch.setenv('PATH', slurm(tmp_path, os.environ['PATH']))
    work_dir = tmp_path / 'with space'
    rest = ['--work-dir', work_dir, *small_run_options(street_scenes, 2), *NARROW_MODEL]
    train = [TOOLS / 'train.py', CONFIG, '--launcher', 'slurm', *rest]
    code, output = run_two(run_script, *train, folder=tmp_path, variables=slurm_variables)
    assert code == 0, output[-4000:]
    (checkpoint,) = work_dir.glob('iter_*.pth')
    assert torch.load(checkpoint, weights_only=False)['meta']['iter'] == 2
    (log,) = work_dir.glob('*/*.log')  # of one process only
    assert 'GPU number: 2' in log.read_text()
