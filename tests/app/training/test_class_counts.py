"""Heads, datasets and label checks that do not have the same number of classes."""

import pytest
from mmengine.config import Config

from pspnet_plugin.app.training.class_counts import class_problems
from pspnet_plugin.app.training.dataset_files import DatasetError
from pspnet_plugin.app.training.launch import prepare
from pspnet_plugin.app.training.tools import stock_tools
from tests.helpers.street_scenes import cityscapes_at

STOCK = sorted((stock_tools().parent / 'configs').glob('[!_]*/*.py'))


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        ({'model.auxiliary_head.num_classes': 7}, 'model.auxiliary_head.num_classes is 7, but the'),
        ({'model.decode_head.num_classes': 150}, 'of train_dataloader has 19 classes: road, side'),
        (
            {'train_dataloader.dataset.metainfo': {'classes': ('road', 'car')}},
            'has 2 classes: road, car',
        ),
        ({'train_dataloader.dataset.pipeline.2.num_classes': 4}, 'train_dataloader has num_clas'),
    ],
)
def test_a_run_does_not_begin_with_another_number_of_classes(street_scenes, change, told):
    cfg = cityscapes_at(street_scenes)
    assert class_problems(cfg) == []
    cfg.merge_from_dict(change)
    with pytest.raises(DatasetError, match=told):
        prepare(cfg, ('train_dataloader',))


@pytest.mark.parametrize('folder', sorted({path.parent.name for path in STOCK}))
def test_stock_configs_agree_with_themselves(folder):
    """One config of each family, read without its custom imports."""
    path = next(path for path in STOCK if path.parent.name == folder)
    assert class_problems(Config.fromfile(path, import_custom_modules=False)) == []
