"""What a validation logs: the IoU of each class, and the loss where the config asks for it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmseg.models.segmentors import EncoderDecoder
from PIL import Image

from pspnet_plugin import init_model, predict
from pspnet_plugin.app.commands import main
from tests.helpers.folders import make_folders
from tests.helpers.metrics import confusion_of_files
from tests.helpers.street_scenes import NARROW_OWN_DATA

CLASSES = ('ground', 'fine crack', 'glossy/wet')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """The work folder of three iterations on own data, with validation loss, and its config."""
    root = tmp_path_factory.mktemp('validated')
    images, masks = make_folders(root)
    words = ['init', images, masks, '--out', root / 'mine', '--iterations', '3']
    assert main([*map(str, words)]) == 0
    text = (root / 'mine' / 'mine.py').read_text()
    text = re.sub('^classes = .*', f'classes = {CLASSES}', text, flags=re.MULTILINE)
    text = text.replace('validation_loss = False', 'validation_loss = True')
    (root / 'mine' / 'mine.py').write_text(text)
    cfg = Config.fromfile(root / 'mine' / 'mine.py')
    cfg.merge_from_dict(NARROW_OWN_DATA)
    cfg.default_hooks.checkpoint.save_best = ['IoU/glossy/wet', 'val_loss']
    cfg.default_hooks.early_stopping = dict(type='EarlyStoppingHook', monitor='IoU/glossy/wet')
    cfg.work_dir = str(root / 'run')
    cfg.visualizer.name = str(root)
    Runner.from_cfg(cfg).train()
    return root / 'run', cfg


@pytest.fixture(scope='module')
def logged(run):
    (log,) = run[0].glob('*/vis_data/scalars.json')
    return json.loads(log.read_text().splitlines()[-1])


def test_the_log_has_the_iou_of_each_class_by_its_name(run, logged, tmp_path):
    work_dir, cfg = run
    masks = {}
    model = init_model(cfg, work_dir / 'iter_3.pth')
    folder, suffix = cfg.dataset.data_prefix.img_path, cfg.dataset.img_suffix
    for name in Path(cfg.val_dataloader.dataset.ann_file).read_text().split():
        (found,) = predict(model, f'{folder}/{name}{suffix}')
        Image.fromarray(found.label_map).save(tmp_path / f'{name}.png')
        masks[f'{name}.png'] = f'{cfg.dataset.data_prefix.seg_map_path}/{name}.png'
    counts = confusion_of_files(tmp_path, masks, 3)
    right = np.diag(counts)
    expected = 100 * right / (counts.sum(0) + counts.sum(1) - right)
    told = [logged[f'IoU/{name}'] for name in CLASSES]
    np.testing.assert_allclose(told, expected, atol=0.006)


def test_the_best_checkpoint_of_a_class_and_of_the_loss_is_kept(run):
    best = {path.name for path in run[0].glob('best_*')}
    assert best == {'best_IoU_glossy_wet_iter_3.pth', 'best_val_loss_iter_3.pth'}


def test_the_validation_loss_is_that_of_stock_in_evaluation(run, logged):
    work_dir, cfg = run
    cfg = cfg.copy()
    cfg.model.type = 'EncoderDecoder'
    cfg.val_dataloader.batch_size = 1
    runner = Runner.from_cfg(cfg.copy())
    model = runner.model
    assert type(model) is EncoderDecoder
    state = torch.load(work_dir / 'iter_3.pth', weights_only=False)['state_dict']
    model.load_state_dict(state)
    model.eval()
    losses = []
    for batch in runner.build_dataloader(cfg.val_dataloader):
        with torch.no_grad():  # all images have the size that the config resizes to
            losses.append(model.parse_losses(model.loss(**model.data_preprocessor(batch)))[0])
    assert logged['val_loss'] == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)


def test_labels_of_another_size_than_the_input_are_resized_and_padding_is_ignored():
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    from pspnet_plugin.validation import with_label_of_input

    labels = torch.arange(6).view(1, 2, 3).repeat_interleave(4, 1).repeat_interleave(4, 2)
    sample = SegDataSample(metainfo=dict(img_shape=(2, 3), ori_shape=(8, 12)))
    sample.gt_sem_seg = PixelData(data=labels)
    fitted = with_label_of_input(sample, torch.zeros(1, 3, 4, 4), 255).gt_sem_seg.data
    expected = torch.full((1, 4, 4), 255)
    expected[0, :2, :3] = torch.arange(6).view(2, 3)
    assert torch.equal(fitted, expected)
    assert sample.gt_sem_seg.data.shape == (1, 8, 12)
