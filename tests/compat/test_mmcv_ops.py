"""``mmcv.ops`` and ``mmseg.models`` with mmcv-lite, which has no compiled operators."""

import importlib.util
from pathlib import Path

import mmcv
import pytest
import torch
from mmseg.registry import MODELS
from torch.nn import functional as F

from pspnet_plugin import compat
from tests.helpers.processes import run_python
from tests.helpers.stack import LACKS_OPERATORS

needs_repair = pytest.mark.skipif(
    not LACKS_OPERATORS, reason='mmcv has compiled operators, or mmseg (onedl) does without'
)


@needs_repair
def test_mmseg_models_import_with_the_plugin_and_not_without_it():
    code, output = run_python('-c', 'import mmseg.models')
    assert code != 0
    assert 'mmcv._ext' in output
    # The process of this test has imported the plugin.
    import mmseg.models

    assert mmseg.models.EncoderDecoder


@needs_repair
def test_model_that_needs_a_compiled_operator_says_so_when_it_is_built():
    head = dict(type='PSAHead', in_channels=4, channels=2, num_classes=2, mask_size=(5, 5))
    with pytest.raises(compat.MissingOperatorError, match=r'PSAMask.*mmcv-lite.*install mmcv'):
        MODELS.build(head)


@needs_repair
def test_compiled_function_says_so_when_it_is_called():
    from mmcv.ops import nms

    with pytest.raises(compat.MissingOperatorError, match='nms'):
        nms(torch.rand(3, 4), torch.rand(3), 0.5)


def test_operator_written_in_python_computes_what_grid_sample_does():
    pytest.importorskip('mmcv.ops', reason='onedl-mmcv has no operators here')
    from mmcv.ops import point_sample

    features, points = torch.rand(2, 3, 5, 7), torch.rand(2, 11, 2)
    expected = F.grid_sample(features, points.unsqueeze(2) * 2 - 1, align_corners=False)
    assert torch.equal(point_sample(features, points), expected.squeeze(3))


def test_stand_in_does_not_pretend_that_the_extension_is_installed():
    files = list(Path(mmcv.__file__).parent.glob('_ext.*'))
    assert (importlib.util.find_spec('mmcv._ext') is not None) == bool(files)


def test_missing_mmcv_is_one_line_that_says_what_to_install(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name: None if name == 'mmcv' else find_spec(name)
    )
    with pytest.raises(ImportError, match='pip install mmcv-lite') as raised:
        compat.mmcv_ops.patch()
    assert '\n' not in str(raised.value)


def test_asking_for_the_environment_works_without_compiled_operators():
    from mmcv.utils import collect_env

    assert 'MMCV Compiler' in collect_env()
