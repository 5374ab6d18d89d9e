"""The callbacks that ``compat.runner`` adds to mmengine's Runner."""

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.runner import Runner

from pspnet_plugin.compat import runner as callbacks
from tests.helpers.freezing_runs import Net, Noise, loader

DATASETS.register_module(name='NoiseForCallbacks', module=Noise)


@MODELS.register_module(name='NetForCallbacks')
class StartsAtZero(Net):
    """Its convolutions are initialized to zeros."""

    def __init__(self):
        super().__init__()
        self.init_cfg = {'type': 'Constant', 'layer': 'Conv2d', 'val': 0, 'bias': 0}

    def init_weights(self):
        self.seen = callbacks.starting_runner()
        super().init_weights()


@HOOKS.register_module(name='NotedCallback')
class Noted(Hook):
    def before_train(self, runner):
        runner.noted = getattr(runner, 'noted', 0) + 1


@HOOKS.register_module(name='OneMoreNotedCallback')
class OneMore(Noted):
    pass


@pytest.fixture(autouse=True)
def empty_lists(monkeypatch):
    for name in ('before_build', 'added_hooks', 'after_init'):
        monkeypatch.setattr(callbacks, name, [])


def config(work_dir, **settings):
    return Config(
        dict(
            model=dict(type='NetForCallbacks'),
            work_dir=str(work_dir),
            experiment_name=work_dir.name,
            train_dataloader={
                **loader('InfiniteSampler'),
                'dataset': {'type': 'NoiseForCallbacks'},
            },
            train_cfg=dict(by_epoch=False, max_iters=1),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
            log_level='ERROR',
            **settings,
        )
    )


def test_functions_see_and_change_the_config_before_anything_is_built_from_it(tmp_path):
    callbacks.before_build.append(lambda cfg: cfg.merge_from_dict({'train_cfg.max_iters': 3}))
    assert Runner.from_cfg(config(tmp_path)).train_loop.max_iters == 3


def test_error_before_the_build_ends_it(tmp_path):
    def refuse(cfg):
        raise ValueError('no')

    callbacks.before_build.append(refuse)
    with pytest.raises(ValueError, match='no'):
        Runner.from_cfg(config(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('own', [[], ['NotedCallback'], ['OneMoreNotedCallback']])
def test_hook_for_every_run_joins_once_and_not_beside_one_of_its_class(tmp_path, own):
    callbacks.added_hooks.append(Noted)
    run = Runner.from_cfg(config(tmp_path, custom_hooks=[dict(type=hook) for hook in own]))
    run.train()
    assert run.noted == 1


def test_functions_see_the_model_after_its_initialization_and_before_training(tmp_path):
    seen = []
    callbacks.after_init.append(lambda model: seen.append(model.head.bias.clone()))
    run = Runner.from_cfg(config(tmp_path))
    run.train()
    (bias,) = seen
    assert not bias.any()
    assert run.model.head.bias.any()


def test_hooks_are_called_before_the_optimizer_is_built_and_before_its_schedulers_are(tmp_path):
    seen = []

    class Notes(Hook):
        def before_optim_wrapper(self, runner):
            seen.append(type(runner.optim_wrapper))

        def after_optim_wrapper(self, runner):
            (group,) = runner.optim_wrapper.optimizer.param_groups
            seen.append((group['lr'], runner.param_schedulers))

    schedulers = [dict(type='ConstantLR', factor=0.5, by_epoch=False)]
    scaled = dict(enable=True, base_batch_size=4)
    cfg = config(tmp_path, param_scheduler=schedulers, auto_scale_lr=scaled)
    run = Runner.from_cfg(cfg)
    run.register_hook(Notes())
    run.train()
    built_from, (rate, built) = seen
    assert issubclass(built_from, dict)
    assert (rate, built) == (0.05, schedulers)


def test_runner_that_initializes_its_model_is_known_meanwhile_only(tmp_path):
    run = Runner.from_cfg(config(tmp_path))
    run.train()
    assert run.model.seen is run
    assert callbacks.starting_runner() is None


def test_runner_that_failed_to_initialize_its_model_is_forgotten(tmp_path, monkeypatch):
    run = Runner.from_cfg(config(tmp_path))
    monkeypatch.setattr(run.model, 'init_weights', lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.train()
    assert callbacks.starting_runner() is None
