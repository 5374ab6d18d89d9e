"""What cannot be exported, or gives other labels, is one error, and no file is lost by it."""

import pytest
import torch
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from torch import nn

from pspnet_plugin.app.commands import main
from pspnet_plugin.app.export import ExportError, ExportSettings, export_model
from pspnet_plugin.app.export.network import first_tensor
from pspnet_plugin.app.export.runtimes import HAS_DYNAMO_EXPORTER, require
from tests.helpers.exports import small_config, write_checkpoint


@MODELS.register_module()
class OneConvolution(nn.Module):
    """The smallest backbone."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=8, padding=1)

    def forward(self, x):
        return [self.conv(x)]


@MODELS.register_module()
class LooksAtTheImage(OneConvolution):
    """A backbone that computes what the brightness says."""

    def forward(self, x):
        return super().forward(x if x.mean().item() > 0 else -x)


@MODELS.register_module()
class TurnsLogitsAround(EncoderDecoder):
    """Its logits alone, which are what is exported, are not those that it predicts with."""

    def _forward(self, inputs, data_samples=None):
        return -super()._forward(inputs, data_samples)


def tiny(tmp_path, backbone='OneConvolution', **model):
    """Paths of a config and a checkpoint."""
    head = {'type': 'FCNHead', 'in_channels': 8, 'in_index': 0, 'channels': 4, 'num_classes': 3}
    config = small_config(backbone={'type': backbone}, decode_head=head, **model)
    config.dump(tmp_path / 'config.py')
    return tmp_path / 'config.py', write_checkpoint(config, tmp_path / 'random.pth')


def test_a_file_with_other_labels_is_refused_and_the_one_before_stays(tmp_path):
    path = tmp_path / 'out' / 'network.onnx'
    path.parent.mkdir()
    path.write_text('the file before')
    with pytest.raises(ExportError, match='No file was written: .* get another label'):
        export_model(*tiny(tmp_path, type='TurnsLogitsAround'), path)
    assert [file.name for file in path.parent.iterdir()] == ['network.onnx']
    assert path.read_text() == 'the file before'


@pytest.mark.skipif(not HAS_DYNAMO_EXPORTER, reason='older torch records the branch that was taken')
def test_what_cannot_be_recorded_is_one_line(tmp_path, capsys):
    config, checkpoint = tiny(tmp_path, 'LooksAtTheImage')
    assert main(['export', str(config), str(checkpoint), '--out', str(tmp_path / 'out.onnx')]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('error: onnx cannot record this network (LooksAtTheImage and FCNHead')
    assert not (tmp_path / 'out.onnx').exists()


def test_masks_and_their_classes_are_no_logits():
    with pytest.raises(ExportError, match='networks that classify each pixel'):
        first_tensor(([torch.zeros(1, 100, 20)], [torch.zeros(1, 100, 8, 8)]))


def test_a_missing_package_is_named_with_the_extra_that_brings_it():
    with pytest.raises(ExportError, match=r'needs no_such_package: pip install "pspnet-plugin\[o'):
        require(('no_such_package',), 'openvino')


@pytest.mark.parametrize(
    ('settings', 'named'),
    [
        ({'to': 'tflite'}, "to='tflite'"),
        ({'output': 'masks'}, "output='masks'"),
        ({'size': (0, 64)}, 'size'),
        ({'int8': True, 'to': 'torch-export'}, 'torch-export'),
        ({'int8': True, 'dtype': 'float16'}, 'float32'),
        ({'winograd': True, 'dtype': 'float16'}, 'winograd is for float32'),
        ({'winograd': True, 'int8': True}, 'winograd is for float32'),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, named):
    with pytest.raises(ExportError, match=named):
        ExportSettings(**settings)


def test_the_end_of_the_name_must_fit_the_format(tmp_path):
    with pytest.raises(ExportError, match='ends in .onnx'):
        export_model(small_config(), 'any.pth', tmp_path / 'network.xml')
