"""The tools as users call them: train, test, resume, with our tools and with the stock ones."""

import json
import os
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from PIL import Image

from pspnet_plugin.launch import stock_tools
from tests.helpers.attacks import Payload
from tests.helpers.processes import ROOT, run_python, start_python
from tests.helpers.street_scenes import make_street_scenes, small_run_options

CONFIG = ROOT / 'configs' / 'psp_r50_cityscapes.py'
# The same recipe on a narrow model, for what does not depend on its size.
NARROW = [
    'model.backbone.depth=18',
    'model.backbone.base_channels=8',
    'model.backbone.stem_channels=8',
    'model.decode_head.in_channels=64',
    'model.decode_head.channels=16',
    'model.auxiliary_head.in_channels=32',
    'model.auxiliary_head.channels=8',
]


def metrics_logged(folder):
    """The metrics of the newest run in ``folder``, as the stock logger writes them."""
    newest = max(folder.glob('*/*.json'), key=lambda path: path.stat().st_mtime)
    return json.loads(newest.read_text().splitlines()[-1])


@pytest.mark.parametrize('tools', [ROOT / 'tools', stock_tools()], ids=['ours', 'stock'])
def test_train_then_test_then_resume(tools, street_scenes, tmp_path):
    options = small_run_options(street_scenes)
    work_dir = ['--work-dir', tmp_path]
    code, output = run_python(tools / 'train.py', CONFIG, *work_dir, *options)
    assert code == 0, output[-4000:]
    assert (tmp_path / 'iter_4.pth').is_file()
    (tmp_path / 'iter_2.pth').unlink()

    code, output = run_python(
        tools / 'test.py', CONFIG, tmp_path / 'iter_4.pth', *work_dir, *options
    )
    assert code == 0, output[-4000:]
    assert 0 <= metrics_logged(tmp_path)['mIoU'] <= 100

    longer = small_run_options(street_scenes, iterations=6)
    code, output = run_python(tools / 'train.py', CONFIG, *work_dir, '--resume', *longer)
    assert code == 0, output[-4000:]
    assert 'resumed epoch: 0, iter: 4' in output
    assert (tmp_path / 'iter_6.pth').is_file()
    shutil.rmtree(tmp_path)  # checkpoints of a whole ResNet-50 with its momentum


def wait_for(path, process):
    for _ in range(3000):
        if path.is_file():
            return
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    pytest.fail(f'{path} was not written')


def test_killed_run_resumes_and_a_cut_checkpoint_is_refused(street_scenes, tmp_path):
    options = [*small_run_options(street_scenes, iterations=2000, interval=5), *NARROW]
    command = [ROOT / 'tools' / 'train.py', CONFIG, '--work-dir', tmp_path]
    process = start_python(*command, *options)
    wait_for(tmp_path / 'iter_10.pth', process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL

    saved = (tmp_path / 'last_checkpoint').read_text()
    reached = int(re.search(r'iter_(\d+)\.pth', saved).group(1))
    options = [*small_run_options(street_scenes, iterations=reached + 10, interval=5), *NARROW]
    code, output = run_python(*command, '--resume', *options)
    assert code == 0, output[-4000:]
    assert f'resumed epoch: 0, iter: {reached}\n' in output

    last = tmp_path / f'iter_{reached + 10}.pth'
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    code, output = run_python(*command, '--resume', *options)
    assert code == 1
    assert 'Traceback' not in output
    error = output.strip().splitlines()[-1]
    assert error.startswith(f'error: The checkpoint {last} is broken or incomplete')
    assert f'load_from={tmp_path / f"iter_{reached + 5}.pth"}' in error


@pytest.mark.parametrize('tool', ['test.py', 'train.py'])
def test_checkpoint_with_code_inside_is_refused(tool, street_scenes, tmp_path):
    made = tmp_path / 'made'
    checkpoint = tmp_path / 'downloaded.pth'
    torch.save({'state_dict': {}, 'meta': Payload(exec, f'open({str(made)!r}, "w")')}, checkpoint)
    options = [*small_run_options(street_scenes), *NARROW]
    if tool == 'test.py':
        arguments = [checkpoint, '--work-dir', tmp_path, *options]
    else:
        arguments = ['--resume', '--work-dir', tmp_path, *options, f'load_from={checkpoint}']
    code, output = run_python(ROOT / 'tools' / tool, CONFIG, *arguments)
    assert code == 1
    error = output.strip().splitlines()[-1]
    assert error.startswith(f'error: The checkpoint {checkpoint} holds')
    assert 'exec' in error
    assert not made.exists()


def test_missing_dataset_is_an_error_before_anything_is_built(tmp_path):
    options = small_run_options(tmp_path / 'nowhere')
    train_py = ROOT / 'tools' / 'train.py'
    work_dir = tmp_path / 'work'
    code, output = run_python(train_py, CONFIG, '--work-dir', work_dir, *options)
    assert code == 1
    error = output.strip().splitlines()[-1]
    assert error.startswith(f'error: {tmp_path / "nowhere"} does not exist')
    assert 'cityscapes.py' in error
    assert not work_dir.exists()


def test_wrong_label_value_stops_training_and_keeps_the_checkpoints(tmp_path):
    root = make_street_scenes(tmp_path / 'cityscapes')
    wrong = sorted((root / 'gtFine' / 'val').rglob('*.png'))[0]
    Image.fromarray(np.full((64, 128), 33, np.uint8)).save(wrong)
    options = [*small_run_options(root), *NARROW]
    train_py = ROOT / 'tools' / 'train.py'
    code, output = run_python(train_py, CONFIG, '--work-dir', tmp_path, *options)
    assert code == 1
    error = output.strip().splitlines()[-1]
    assert error.startswith(f'error: {wrong} holds the label values 33')
    assert (tmp_path / 'iter_4.pth').is_file()


def test_two_processes_train_and_test_without_a_gpu(street_scenes, tmp_path):
    options = [*small_run_options(street_scenes), *NARROW]
    torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node=2']
    work_dir = ['--launcher', 'pytorch', '--work-dir', tmp_path]
    tools = ROOT / 'tools'
    code, output = run_python(*torchrun, tools / 'train.py', CONFIG, *work_dir, *options)
    assert code == 0, output[-4000:]
    assert output.count('SyncBN in the config became BN') == 1
    last = tmp_path / 'iter_4.pth'
    code, output = run_python(*torchrun, tools / 'test.py', CONFIG, last, *work_dir, *options)
    assert code == 0, output[-4000:]
    assert 'mIoU' in output


@pytest.mark.parametrize('script', ['dist_train.sh', 'dist_test.sh'])
def test_shell_scripts_hand_everything_to_torchrun(script, tmp_path):
    fake = tmp_path / 'torchrun'
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    positional = ['config.py', '2'] if 'train' in script else ['config.py', 'last.pth', '2']
    printed = subprocess.run(
        ['bash', ROOT / 'tools' / script, *positional, '--work-dir', 'with space'],
        env={**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}', 'PORT': '29511'},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert '--nproc_per_node=2' in printed
    assert '--master_port=29511' in printed
    tail = [*positional[:-1], '--launcher', 'pytorch', '--work-dir', 'with space']
    assert printed[-len(tail) :] == tail
    assert printed[-len(tail) - 1].endswith('/' + script[len('dist_') : -len('.sh')] + '.py')
