"""``_base_ = 'pspnet_plugin::…'`` works in configs anywhere, before the plugin is imported."""

import pytest
from mmengine.config import Config

from pspnet_plugin.compat import config_scope


def write_config(tmp_path, base):
    path = tmp_path / 'elsewhere.py'
    path.write_text(f'_base_ = {base!r}\nmax_iters = 7\n')
    return path


def test_config_elsewhere_builds_on_a_config_of_the_plugin(tmp_path):
    path = write_config(tmp_path, 'pspnet_plugin::psp_r50_cityscapes.py')
    cfg = Config.fromfile(path)
    assert cfg.model.decode_head.type == 'FactorizedPSPHead'
    assert cfg.max_iters == 7


def test_shared_parts_can_be_named_as_well(tmp_path):
    path = write_config(tmp_path, ['pspnet_plugin::_base_/schedules/schedule_20k.py'])
    assert Config.fromfile(path).train_cfg.max_iters == 20000


def test_unknown_name_is_an_error_that_lists_the_known_ones(tmp_path):
    path = write_config(tmp_path, 'pspnet_plugin::psp_r34_cityscapes.py')
    with pytest.raises(FileNotFoundError, match='psp_r34.*psp_r50_cityscapes.py'):
        Config.fromfile(path)


def test_names_of_other_packages_go_the_stock_way(tmp_path):
    path = write_config(tmp_path, 'mmseg::_base_/schedules/schedule_20k.py')
    assert Config.fromfile(path).train_cfg.max_iters == 20000


def test_teaching_twice_changes_nothing():
    before = Config._get_cfg_path
    config_scope.patch()
    assert Config._get_cfg_path is before
