"""Runs on several machines, here two groups of processes that know each other by the loopback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.processes import ROOT, free_port
from tests.helpers.slurm import slurm
from tests.helpers.street_scenes import NARROW_MODEL, small_run_options

TOOLS = ROOT / 'tools'
CONFIG = ROOT / 'configs' / 'psp_r50_cityscapes.py'


@pytest.fixture
def environment():
    """That of a user, with the scripts of this Python and without a GPU."""
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    more = {'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'}
    return {**os.environ, **more, 'PATH': path}


def start(script, *arguments, env):
    command = ['bash', str(TOOLS / script), *map(str, arguments)]
    pipe = {'stdout': subprocess.PIPE, 'stderr': subprocess.STDOUT}
    return subprocess.Popen(command, env=env, text=True, cwd=ROOT, **pipe)


def assert_trained(work_dir, processes):
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output[-4000:]
    (checkpoint,) = work_dir.glob('iter_*.pth')
    assert torch.load(checkpoint, weights_only=False)['meta']['iter'] == 2
    (log,) = work_dir.glob('*/*.log')  # of one process only
    assert 'GPU number: 2' in log.read_text()


def test_two_machines_train_one_model(street_scenes, tmp_path, environment):
    few = [*small_run_options(street_scenes, iterations=2), *NARROW_MODEL]
    machines = {'NNODES': '2', 'MASTER_ADDR': '127.0.0.1', 'PORT': str(free_port())}
    processes = [
        start(
            *('dist_train.sh', CONFIG, 1, '--work-dir', tmp_path, *few),
            env={**environment, **machines, 'NODE_RANK': str(rank)},
        )
        for rank in range(2)
    ]
    assert_trained(tmp_path, processes)


def test_slurm_starts_one_process_for_each_gpu(street_scenes, tmp_path, environment):
    options = {'GPUS': '2', 'GPUS_PER_NODE': '2', 'SRUN_ARGS': '--quiet --time=10'}
    options.update(slurm(tmp_path, environment['PATH']))
    few = [*small_run_options(street_scenes, iterations=2), *NARROW_MODEL]
    work_dir = tmp_path / 'with space'
    arguments = ['a_partition', 'a_job', CONFIG, '--work-dir', work_dir, *few]
    process = start('slurm_train.sh', *arguments, env={**environment, **options})
    assert_trained(work_dir, [process])
    asked = (tmp_path / 'record').read_text().splitlines()
    assert asked[: asked.index('python')] == [
        *('--partition=a_partition', '--job-name=a_job', '--gres=gpu:2', '--ntasks=2'),
        *('--ntasks-per-node=2', '--cpus-per-task=5', '--kill-on-bad-exit=1'),
        *('--quiet', '--time=10'),
    ]


def test_without_arguments_the_script_says_how_it_is_called(environment):
    process = start('slurm_train.sh', 'a_partition', env=environment)
    assert 'PARTITION JOB_NAME CONFIG' in process.communicate()[0]
    assert process.returncode == 2
