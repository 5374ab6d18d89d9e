"""Training runs that are killed at random moments and resumed until they end.

``python -m tests.campaigns.killed_runs 100`` sends a hundred SIGKILLs, over all recipes, and tells
which runs ended with another checkpoint than one that nobody killed.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from random import Random

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from tests.helpers.checkpoints import assert_same, last_state
from tests.helpers.sharded_run import MODEL, Scenes

FROZEN = {'type': 'LayerFreezeHook', 'freeze': ['backbone']}
GRADUAL = {
    **FROZEN,
    'schedule': [
        {'at': 3, 'unfreeze': ['backbone.layer4'], 'lr_mult': 0.3, 'warmup': 3},
        {'at': 7, 'unfreeze': ['backbone'], 'freeze': ['backbone.layer4'], 'lr_mult': 0.1},
    ],
}
RECIPES = {
    'frozen': {'hooks': [FROZEN]},
    'gradual': {'hooks': [GRADUAL]},
    'moving averages': {'hooks': [GRADUAL, {'type': 'EMAHook', 'momentum': 0.1}]},
    'accumulation': {'hooks': [GRADUAL], 'accumulated': 2},
}
ITERATIONS = 12


class Tells(Hook):
    """That the training begins."""

    def __init__(self, begun: Event) -> None:
        self.begun = begun

    def before_train(self, runner: Runner) -> None:
        self.begun.set()


def train(recipe: str, folder: str, begun: Event) -> None:
    """Begin the run of a recipe in ``folder``, or go on from its last checkpoint."""
    torch.set_num_threads(1)
    hooks, accumulated = RECIPES[recipe]['hooks'], RECIPES[recipe].get('accumulated', 1)
    saving = {'type': 'CheckpointHook', 'interval': accumulated, 'by_epoch': False}
    Runner(
        {**MODEL, 'decode_head': {**MODEL['decode_head'], 'dropout_ratio': 0}},
        work_dir=folder,
        train_dataloader={
            **{'dataset': Scenes(), 'batch_size': 2, 'num_workers': 0},
            'sampler': {'type': 'InfiniteSampler', 'shuffle': True},
            'collate_fn': {'type': 'pseudo_collate'},
        },
        train_cfg={'by_epoch': False, 'max_iters': ITERATIONS},
        optim_wrapper={
            'optimizer': {'type': 'SGD', 'lr': 0.01, 'momentum': 0.9, 'weight_decay': 0.01},
            'accumulative_counts': accumulated,
        },
        param_scheduler=[{'type': 'PolyLR', 'by_epoch': False, 'end': ITERATIONS}],
        custom_hooks=[*hooks, Tells(begun)],
        default_hooks={'checkpoint': saving},
        default_scope='mmseg',
        experiment_name='killed',
        randomness={'seed': 0},
        log_level='ERROR',
        resume=True,
    ).train()


# Processes start from one that has imported all, and never computed anything in several threads.
_processes = multiprocessing.get_context('forkserver')
_processes.set_forkserver_preload(['tests.campaigns.killed_runs'])


def run(recipe: str, folder: Path, seconds: float | None = None) -> float | None:
    """Train in a process that is killed ``seconds`` after its training began.

    Returns:
        How many seconds it trained, None where it was killed.
    """
    begun = _processes.Event()
    process = _processes.Process(target=train, args=(recipe, str(folder), begun))
    process.start()
    begun.wait(300)
    begin = time.monotonic()
    process.join(seconds)
    trained = time.monotonic() - begin
    ended = process.exitcode is not None
    process.kill()
    process.join()
    if ended and process.exitcode:
        raise RuntimeError(f'{recipe} in {folder} ended with exit code {process.exitcode}')
    return trained if ended else None


def main(wanted: int) -> None:
    os.environ['PYTHONWARNINGS'] = 'ignore'
    chance = Random(0)
    for number, recipe in enumerate(RECIPES):
        share = wanted * (number + 1) // len(RECIPES) - wanted * number // len(RECIPES)
        with tempfile.TemporaryDirectory() as temporary:
            whole, killed = Path(temporary, 'whole'), Path(temporary, 'killed')
            longest, runs, kills, other = run(recipe, whole), 0, 0, []
            while kills < share:
                for _ in range(min(3, share - kills)):
                    if run(recipe, killed, chance.uniform(0, longest)) is not None:
                        break
                    kills += 1
                else:
                    run(recipe, killed)
                runs += 1
                try:
                    assert_same(last_state(whole), last_state(killed))
                except AssertionError as error:
                    other.append(str(error).splitlines()[0])
                shutil.rmtree(killed)
        print(f'{recipe}: {kills} kills in {runs} runs, {len(other)} ended otherwise', flush=True)
        for place in other:
            print(f'    {place}')


if __name__ == '__main__':
    main(int(sys.argv[1]))
