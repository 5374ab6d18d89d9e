"""``_base_ = 'pspnet_plugin::…'`` and ``config_path`` in configs anywhere."""

import pytest
from mmengine.config import Config

import pspnet_plugin
from tests.helpers.processes import ROOT


def write_config(tmp_path, base):
    path = tmp_path / 'elsewhere.py'
    path.write_text(f'_base_ = {base}\nmax_iters = 7\n')
    return path


@pytest.mark.parametrize(
    'base',
    [
        "'pspnet_plugin::psp_r50_cityscapes.py'",
        "__import__('pspnet_plugin').config_path('psp_r50_cityscapes.py')",
    ],
)
def test_config_elsewhere_builds_on_a_config_of_the_plugin(tmp_path, base):
    cfg = Config.fromfile(write_config(tmp_path, base))
    expected = Config.fromfile(ROOT / 'configs' / 'psp_r50_cityscapes.py')
    assert cfg.max_iters == 7
    assert cfg.model == expected.model
    assert cfg.train_dataloader == expected.train_dataloader


def test_shared_parts_can_be_named_as_well(tmp_path):
    path = write_config(tmp_path, "['pspnet_plugin::_base_/schedules/schedule_20k.py']")
    assert Config.fromfile(path).train_cfg.max_iters == 20000


def test_configs_in_a_folder_can_be_named_as_well():
    assert Config.fromfile(pspnet_plugin.config_path('finetune/linear_probe.py')).model


def test_unknown_name_is_an_error_that_lists_the_known_ones_and_the_nearest(tmp_path):
    path = write_config(tmp_path, "'pspnet_plugin::psp_r34_cityscapes.py'")
    with pytest.raises(FileNotFoundError, match=r'psp_r34.*Did you mean .*psp_r50_cityscapes\.py'):
        Config.fromfile(path)


def test_names_of_mmseg_are_found(tmp_path):
    path = write_config(tmp_path, "'mmseg::_base_/schedules/schedule_20k.py'")
    assert Config.fromfile(path).train_cfg.max_iters == 20000
