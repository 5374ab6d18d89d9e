"""What is counted of a checkpoint on labelled images is what mmseg counts."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS
from PIL import Image

from pspnet_plugin.app.reports.evaluation import evaluate, labelled_predictions
from pspnet_plugin.app.reports.metrics import areas_of, count_pairs
from pspnet_plugin.app.reports.page import Pictures, page_data
from pspnet_plugin.errors import PspnetPluginError
from tests.helpers.exports import CLASSES, small_config, write_checkpoint


@pytest.fixture(scope='module')
def files(street_scenes, tmp_path_factory):
    """A config and a checkpoint."""
    config = small_config(data_root=street_scenes)
    return config, write_checkpoint(config, tmp_path_factory.mktemp('model') / 'random.pth')


@pytest.mark.parametrize('ignored', [255, 0, 7])
def test_whichever_label_is_ignored_areas_are_those_of_mmseg(files, ignored):
    config = copy.deepcopy(files[0])
    config.model.decode_head.ignore_index = ignored
    count = 0
    for labels, prediction in labelled_predictions(config, files[1]):
        path = prediction.path.replace('leftImg8bit.png', 'gtFine_labelTrainIds.png')
        stated = np.asarray(Image.open(path.replace('leftImg8bit', 'gtFine'))).copy()
        stated[stated == 255] = ignored  # which mmseg counts as predicted otherwise
        maps = (torch.from_numpy(one) for one in (prediction.label_map, stated))
        both, _, predicted, of_label = IoUMetric.intersect_and_union(*maps, 19, ignored)
        found = areas_of(count_pairs(labels, prediction.label_map, 19))
        np.testing.assert_array_equal(found, torch.stack([both, of_label, predicted]))
        count += 1
    assert count == 2


@pytest.mark.parametrize(('indices', 'kept'), [(None, [0, 1]), (1, [0]), (-1, [1]), ([1], [1])])
def test_the_images_are_those_that_a_run_of_the_config_reads(files, indices, kept):
    config = copy.deepcopy(files[0])
    dataset = DATASETS.build({**config.val_dataloader.dataset, '_scope_': 'mmseg'})
    whole = [dataset.get_data_info(number)['img_path'] for number in range(len(dataset))]
    config.val_dataloader.dataset.indices = indices
    found = [prediction.path for _, prediction in labelled_predictions(config, files[1])]
    assert found == [whole[number] for number in kept]


def test_a_label_that_is_no_class_is_refused_as_in_a_test(files, street_scenes, tmp_path):
    root = shutil.copytree(street_scenes, tmp_path / 'scenes')
    config = copy.deepcopy(files[0])
    config.val_dataloader.dataset.data_root = str(root)
    path = sorted(root.glob('gtFine/val/*/*.png'))[1]
    labels = np.asarray(Image.open(path)).copy()
    labels[:8] = 33
    Image.fromarray(labels).save(path)
    with pytest.raises(PspnetPluginError, match=rf'{path.name} holds the label values 33, but'):
        list(labelled_predictions(config, files[1]))


def test_images_are_named_by_relative_and_by_absolute_paths(files, street_scenes, monkeypatch):
    monkeypatch.chdir(street_scenes)
    config = copy.deepcopy(files[0])
    absolute = config.val_dataloader.dataset
    relative = {**absolute, 'data_root': '.'}
    config.val_dataloader.dataset = dict(type='ConcatDataset', datasets=[absolute, relative])
    found = evaluate(config, str(files[1]), 'val_dataloader', 'cpu', lambda *seen: None)
    shown = page_data([found], [Pictures((1, 1), '', '', [''])] * 4)['images']
    assert [image['name'] for image in shown[:2]] == [image['name'] for image in shown[2:]]
    assert len({image['name'] for image in shown}) == 2


def test_classes_of_the_images_in_another_order_than_in_training_are_refused(files):
    config = copy.deepcopy(files[0])
    config.val_dataloader.dataset.metainfo = {'classes': CLASSES[::-1]}
    with pytest.raises(PspnetPluginError, match='val_dataloader has .* in the order class 0, cla'):
        next(labelled_predictions(config, files[1]))
