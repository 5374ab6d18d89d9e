"""The fine-tuning recipes run, and train what their first lines say."""

from __future__ import annotations

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from tests.helpers.freezing_runs import Changes
from tests.helpers.processes import ROOT

FOLDER = ROOT / 'configs' / 'finetune'
ITERATIONS = 10
STEM, FIRST, LAST = (
    f'backbone.timm_model.{name}'
    for name in ('conv_stem.weight', 'blocks.0.0.conv_dw.weight', 'blocks.6.0.conv_pw.weight')
)
# The first iteration at which the stem, the first and the last stage train; None is never.
BEGINS = {
    'linear_probe': (None, None, None),
    'frozen_backbone': (None, None, None),
    'frozen_stem': (None, None, 0),
    'probe_then_finetune': (3, 3, 3),
    'gradual_unfreezing': (5, 4, 1),
    'full': (0, 0, 0),
    'from_scratch': (0, 0, 0),
}


def test_every_recipe_is_tested():
    assert {path.stem for path in FOLDER.glob('*.py')} == set(BEGINS)


@pytest.fixture(scope='module')
def tiles(tmp_path_factory):
    """Four tiles in the layout of the demo's data."""
    root, rng = tmp_path_factory.mktemp('bluemarble'), np.random.default_rng(0)
    for kind, shape, top in (('images', (32, 32, 3), 256), ('labels', (32, 32), 2)):
        (root / kind / 'train').mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, top, shape, dtype=np.uint8)
            Image.fromarray(pixels).save(root / kind / 'train' / f'{number}.png')
    return root


@pytest.mark.parametrize('name', BEGINS)
def test_a_recipe_trains_what_it_says(name, tiles, tmp_path):
    config = Config.fromfile(FOLDER / f'{name}.py')
    if name != 'from_scratch':
        assert config.model.backbone.init_cfg.type == 'PretrainedBackbone'
    config.merge_from_dict(
        {
            'model.backbone.init_cfg': None,
            'model.data_preprocessor.size': (32, 32),
            'train_dataloader.batch_size': 2,
            'train_dataloader.dataset.data_root': str(tiles),
            'train_dataloader.dataset.pipeline.3.crop_size': (32, 32),
            'train_cfg.max_iters': ITERATIONS,
            'param_scheduler.0.end': ITERATIONS,
            'work_dir': str(tmp_path),
            'experiment_name': name,
            'log_level': 'ERROR',
        }
    )
    for part in ('val', 'test'):
        for key in ('dataloader', 'cfg', 'evaluator'):
            config.pop(f'{part}_{key}')
    changes, runner = Changes(), Runner.from_cfg(config)
    runner.register_hook(changes)
    runner.train()
    for parameter, begin in zip((STEM, FIRST, LAST), BEGINS[name]):
        trains = [parameter in changes.changed[iteration] for iteration in range(ITERATIONS)]
        first = ITERATIONS if begin is None else begin
        assert trains == [False] * first + [True] * (ITERATIONS - first)
    assert all('decode_head.conv_seg.weight' in changed for changed in changes.changed.values())
