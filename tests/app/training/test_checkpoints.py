"""Another model's checkpoint, of which mmengine loads what happens to fit, without an error."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.models import init_model
from pspnet_plugin.app.prediction import predict
from tests.helpers.prediction import random_checkpoint, share_equal, small_config
from tests.helpers.processes import ROOT
from tests.helpers.street_scenes import NARROW_MODEL, small_run_options

CONFIG = 'psp_r50_cityscapes'


@pytest.fixture(scope='module')
def trained(street_scenes, tmp_path_factory):
    """The checkpoint of one iteration of a narrow network."""
    folder = tmp_path_factory.mktemp('run')
    assert run('train', street_scenes, folder) == 0
    return folder / 'iter_1.pth'


def run(name, street_scenes, work_dir, *words, **changed):
    options = [*small_run_options(street_scenes, 1, 1), *NARROW_MODEL]
    options += [f'{key}={value}' for key, value in changed.items()]
    return main([name, CONFIG, *map(str, words), '--work-dir', str(work_dir), *options])


DEEPER = {'model.backbone.depth': 34}
OTHER_HEAD = {'model.decode_head.channels': 8}
NO_AUXILIARY = {'model.auxiliary_head': None}


def test_a_run_does_not_overwrite_the_checkpoints_of_another_and_a_finished_one_says_so(
    trained, street_scenes, capfd
):
    before = trained.read_bytes()
    assert run('train', street_scenes, trained.parent) == 1
    error = capfd.readouterr().err
    assert '--resume' in error
    assert '--work-dir' in error
    assert trained.read_bytes() == before
    part = trained.with_name('iter_2.pth.0123abcd.part')
    part.write_bytes(before[:1000])  # as a run leaves it that is killed while it writes
    assert run('train', street_scenes, trained.parent, '--resume') == 0
    assert not part.exists()
    assert capfd.readouterr().out.count('nothing left to do') == 1


@pytest.mark.parametrize('more', [[], ['--tta']])
def test_a_checkpoint_of_the_model_is_tested_also_without_its_auxiliary_head(
    trained, street_scenes, tmp_path, more
):
    assert run('test', street_scenes, tmp_path, trained, *more) == 0
    assert run('test', street_scenes, tmp_path, trained, *more, **NO_AUXILIARY) == 0


@pytest.mark.parametrize('tta_model', ['SegTTAModel', 'LogitsTTAModel'])
def test_a_single_channel_is_tested_with_augmentation_as_it_is_predicted(
    street_scenes, tmp_path, tta_model
):
    cfg = small_config(ROOT / 'configs' / f'{CONFIG}.py')
    cfg.model.decode_head.update(num_classes=2, out_channels=1)
    cfg.model.auxiliary_head.num_classes = 2
    weights = random_checkpoint(cfg, tmp_path / 'binary.pth')
    content = torch.load(weights, weights_only=False)
    content['state_dict']['decode_head.conv_seg.weight'] *= 0.01  # far from 0 and 1
    torch.save(content, weights)
    images = street_scenes / 'leftImg8bit' / 'val'
    found = predict(init_model(cfg, weights, device='cpu'), images, probabilities=True)
    options = {
        'model.decode_head.num_classes': 2,
        'model.decode_head.out_channels': 1,
        'model.decode_head.threshold': float(np.median(next(found).probabilities[1])),
        'model.auxiliary_head.num_classes': 2,
        'tta_model.type': tta_model,
    }
    tested = tmp_path / 'tested'
    assert run('test', street_scenes, tmp_path, weights, '--tta', '--out', tested, **options) == 0
    words = [f'{key}={value}' for key, value in options.items()]
    command = ['predict', CONFIG, weights, str(images), '--tta']
    command += ['--out', str(tmp_path), '--cfg-options', *NARROW_MODEL, *words]
    assert main(command) == 0
    predicted = sorted((tmp_path / 'labels').rglob('*.png'))
    assert len(predicted) == 2
    for path in predicted:
        labels = np.asarray(Image.open(tested / path.name))
        assert share_equal(np.asarray(Image.open(path)), labels) == 1


@pytest.mark.parametrize(
    ('changed', 'told'),
    [
        (DEEPER, 'missing: backbone.layer1.2.conv1.weight'),
        (OTHER_HEAD, 'of another shape: decode_'),
    ],
)
def test_metrics_of_another_model_are_refused(
    trained, street_scenes, tmp_path, capsys, changed, told
):
    assert run('test', street_scenes, tmp_path, trained, **changed) == 1
    printed = capsys.readouterr()
    assert f'error: The checkpoint {trained} is of another model than the config' in printed.err
    assert told in printed.err
    assert 'mIoU' not in printed.out


def test_weights_that_the_model_does_not_use_are_refused(trained, street_scenes, tmp_path, capsys):
    """All of a smaller network's weights may stand in the checkpoint of a deeper one."""
    checkpoint = torch.load(trained, weights_only=False)
    weights = checkpoint['state_dict']
    weights['backbone.layer1.2.conv1.weight'] = weights['backbone.layer1.1.conv1.weight']
    torch.save(checkpoint, tmp_path / 'more.pth')
    assert run('test', street_scenes, tmp_path, tmp_path / 'more.pth') == 1
    assert 'unused: backbone.layer1.2.conv1.weight' in capsys.readouterr().err


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_weights_that_are_no_numbers_are_refused(trained, street_scenes, tmp_path, capsys, value):
    checkpoint = torch.load(trained, weights_only=False)
    checkpoint['state_dict']['decode_head.conv_seg.weight'][3] = value
    path = tmp_path / 'diverged.pth'
    torch.save(checkpoint, path)
    assert run('test', street_scenes, tmp_path, path) == 1
    printed = capsys.readouterr()
    assert 'NaN or infinite values in decode_head.conv_seg.weight: the training' in printed.err
    assert 'mIoU' not in printed.out


def test_metrics_of_classes_in_another_order_are_refused(trained, street_scenes, tmp_path, capsys):
    checkpoint = torch.load(trained, weights_only=False)
    meta = checkpoint['meta']['dataset_meta']
    meta['classes'] = meta['classes'][::-1]
    torch.save(checkpoint, tmp_path / 'reversed.pth')
    assert run('test', street_scenes, tmp_path, tmp_path / 'reversed.pth') == 1
    printed = capsys.readouterr()
    assert 'reversed.pth: test_dataloader has the classes road, ' in printed.err
    assert 'mIoU' not in printed.out


@pytest.mark.parametrize(('changed', 'code'), [(OTHER_HEAD, 0), (DEEPER, 1)])
def test_training_starts_from_another_head_but_not_from_another_backbone(
    trained, street_scenes, tmp_path, capsys, changed, code
):
    assert run('train', street_scenes, tmp_path, load_from=trained, **changed) == code
    assert ('tensors of the backbones' in capsys.readouterr().err) == bool(code)


@pytest.mark.parametrize(
    'content',
    [
        lambda weights: {'optimizer': {'state': {0: dict(exp_avg=torch.zeros(2))}}},
        lambda weights: {'state_dict': {f'model.{name}': t for name, t in weights.items()}},
        lambda weights: {f'module._orig_mod.{name}': t for name, t in weights.items()},
        lambda weights: {'model': weights},
        lambda weights: {n.replace('backbone', 'encoder'): t for n, t in weights.items()},
        lambda weights: {n[9:]: t for n, t in weights.items() if n.startswith('backbone.')},
    ],
    ids=['optimizer alone', 'Lightning', 'compiled', 'nested', 'other names', 'backbone alone'],
)
def test_a_file_that_gives_nothing_is_refused_also_beside_pretrained_weights(
    trained, street_scenes, tmp_path, capsys, content
):
    weights = torch.load(trained, weights_only=False)['state_dict']
    torch.save(content(weights), tmp_path / 'other.pth')
    options = [*small_run_options(street_scenes, 1, 1), *NARROW_MODEL]
    options.remove('model.backbone.init_cfg=None')
    options += [f'model.backbone.init_cfg.checkpoint={trained}', f'load_from={tmp_path}/other.pth']
    assert main(['train', CONFIG, '--work-dir', str(tmp_path / 'run'), *options]) == 1
    assert 'would not be loaded' in capsys.readouterr().err
    assert not list(tmp_path.glob('run/*.pth'))


def resumed(trained, street_scenes, folder, **changed):
    shutil.copy(trained, folder)
    (folder / 'last_checkpoint').write_text(str(folder / trained.name))
    return run('train', street_scenes, folder, '--resume', **{'train_cfg.max_iters': 2, **changed})


@pytest.mark.parametrize(
    ('changed', 'told'),
    [
        (DEEPER, 'has another model (missing: backbone.layer1.2.conv1.weight'),
        (OTHER_HEAD, 'has another model (of another shape: decode_head.'),
        (NO_AUXILIARY, 'has another optimizer, or other parameters in its groups'),
        ({'optim_wrapper.paramwise_cfg.custom_keys.head.lr_mult': 10}, 'has another optimizer'),
        ({'optim_wrapper.optimizer.type': 'RMSprop'}, 'has another optimizer'),
        ({'param_scheduler': None}, 'has other schedules (param_scheduler)'),
    ],
)
def test_a_run_is_resumed_as_the_one_that_it_was(
    trained, street_scenes, tmp_path, capsys, changed, told
):
    assert resumed(trained, street_scenes, tmp_path, **changed) == 1
    error = capsys.readouterr().err
    assert f'error: The checkpoint to resume from {told}' in error
    assert 'load_from, without resume' in error


def test_the_weights_alone_are_not_resumed(trained, street_scenes, tmp_path, capsys):
    checkpoint = torch.load(trained, weights_only=False)
    del checkpoint['optimizer'], checkpoint['param_schedulers']  # as mmengine saves the best
    torch.save(checkpoint, tmp_path / 'best_mIoU_iter_1.pth')
    folder = tmp_path / 'run'
    options = {'load_from': tmp_path / 'best_mIoU_iter_1.pth', 'train_cfg.max_iters': 2}
    assert run('train', street_scenes, folder, '--resume', **options) == 1
    assert 'no optimizer and no schedules in it' in capsys.readouterr().err


def test_settings_without_effect_in_a_resumed_run_are_told(trained, street_scenes, tmp_path, capfd):
    changed = {'optim_wrapper.optimizer.lr': 0.5, 'optim_wrapper.optimizer.weight_decay': 0.125}
    assert resumed(trained, street_scenes, tmp_path, **changed) == 0
    (line,) = [n for n in capfd.readouterr().out.splitlines() if 'optimizer of its check' in n]
    assert 'lr is 0.01 and not 0.5, weight_decay is 0.0005 and not 0.125.' in line
    (group,) = torch.load(tmp_path / 'iter_2.pth', weights_only=False)['optimizer']['param_groups']
    assert (group['initial_lr'], group['weight_decay']) == (0.01, 0.0005)


@pytest.mark.parametrize('said', ['in the config', 'on the command line'])
def test_a_run_that_began_from_weights_is_resumed_where_it_was(
    trained, street_scenes, tmp_path, said
):
    """mmengine goes back to load_from, with its iteration, each time that such a run is resumed."""
    checkpoint = torch.load(trained, weights_only=False)
    checkpoint['meta']['iter'] = 100
    weights = tmp_path / 'weights.pth'
    torch.save(checkpoint, weights)
    config, folder = tmp_path / 'mine.py', tmp_path / 'run'
    base = "_base_ = __import__('pspnet_plugin').config_path('psp_r50_cityscapes.py')\n"
    options = [*small_run_options(street_scenes, 1, 1), *NARROW_MODEL]
    if said == 'in the config':
        base += f'load_from = {str(weights)!r}\n'
    else:
        options.append(f'load_from={weights}')
    config.write_text(base)
    command = ['train', str(config), '--work-dir', str(folder)]
    first = [*command, '--resume'] if said == 'in the config' else command
    assert main([*first, *options]) == 0
    assert main([*command, '--resume', *options, 'train_cfg.max_iters=2']) == 0
    assert torch.load(folder / 'iter_2.pth', weights_only=False)['meta']['iter'] == 2


def test_a_checkpoint_of_another_folder_that_is_named_is_resumed(trained, street_scenes, tmp_path):
    options = {'load_from': trained, 'train_cfg.max_iters': 2}
    assert run('train', street_scenes, tmp_path, '--resume', **options) == 0
    assert [path.name for path in tmp_path.glob('iter_*.pth')] == ['iter_2.pth']
