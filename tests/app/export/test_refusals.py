"""What cannot be exported, or gives other labels, is one error, and no file is lost by it."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from mmengine.config import Config
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS
from torch import nn

from pspnet_plugin import ExportSettings, export_model
from pspnet_plugin.app.commands import main
from pspnet_plugin.app.export.check import NOISE
from pspnet_plugin.app.export.network import first_tensor
from pspnet_plugin.app.export.runtimes import HAS_DYNAMO_EXPORTER, require
from pspnet_plugin.app.export.settings import SUFFIXES, ExportError
from pspnet_plugin.app.export.write import folder_beside
from pspnet_plugin.errors import PspnetPluginError
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
    with folder_beside(path) as folder:
        left = Path(folder, 'network.onnx')
    left.parent.mkdir()  # as an export leaves it that is killed
    left.write_bytes(b'half')
    export_model(*tiny(tmp_path), path, ExportSettings(size=(32, 32)))
    before = path.read_bytes()
    with pytest.raises(ExportError, match='No file was written: .* get another label'):
        export_model(*tiny(tmp_path, type='TurnsLogitsAround'), path)
    assert [file.name for file in path.parent.iterdir()] == ['network.onnx']
    assert path.read_bytes() == before


@pytest.mark.skipif(not HAS_DYNAMO_EXPORTER, reason='older torch records the branch that was taken')
def test_what_cannot_be_recorded_is_one_line(tmp_path, capsys):
    config, checkpoint = tiny(tmp_path, 'LooksAtTheImage')
    assert main(['export', str(config), str(checkpoint), '--out', str(tmp_path / 'out.onnx')]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('error: onnx cannot record this network (LooksAtTheImage and FCNHead')
    assert not (tmp_path / 'out.onnx').exists()


@pytest.mark.parametrize(
    ('name', 'pixels', 'told'),
    [
        ('a.png', np.zeros((20, 30, 4), np.uint8), 'a.png has 4 channels, but the model reads 3'),
        ('z.png', np.zeros((20, 30), np.uint8), 'z.png has 1 channels, but the model reads 3'),
        pytest.param(
            'z.png',
            np.zeros((20, 30, 3), np.uint16),
            'z.png is read as torch.uint16, but ',
            marks=pytest.mark.skipif(not hasattr(torch, 'uint16'), reason='torch >= 2.3'),
        ),
        ('z.tif', np.full((20, 30, 3), np.nan, np.float32), 'z.tif is read as torch.float32, but'),
        ('m.tif', np.full((20, 30, 3), np.nan, np.float32), 'm.tif has pixels that are NaN or'),
    ],
)
def test_an_image_that_no_file_can_be_checked_on_is_named(tmp_path, name, pixels, told):
    path, checkpoint = tiny(tmp_path)
    config = Config.fromfile(path)
    config.test_pipeline[0].color_type = 'unchanged'
    folder = tmp_path / 'images'
    folder.mkdir()
    # OpenCV 4 would write logarithms, without NaN.
    uncompressed = (cv2.IMWRITE_TIFF_COMPRESSION, 1) if name.endswith('.tif') else ()
    cv2.imwrite(str(folder / name), pixels, uncompressed)
    if name[0] != 'm':
        cv2.imwrite(str(folder / 'b.png'), np.zeros((20, 30, 3), np.uint8))
    with pytest.raises(ExportError) as raised:
        export_model(config, checkpoint, tmp_path / 'out.onnx', check_images=folder)
    assert str(raised.value).startswith(f'{folder}/{told}')
    assert not (tmp_path / 'out.onnx').exists()


NEW_TORCH = pytest.mark.skipif(not HAS_DYNAMO_EXPORTER, reason='torch >= 2.7')


@pytest.mark.parametrize('to', ['onnx', 'openvino', pytest.param('torch-export', marks=NEW_TORCH)])
def test_what_another_program_has_written_is_not_overwritten(tmp_path, to):
    path, model = tmp_path / f'network{SUFFIXES[to]}', tiny(tmp_path)
    path.write_text('mine')
    settings = ExportSettings(to=to, size=(32, 32))
    with pytest.raises(PspnetPluginError, match='is there already, and not from this command'):
        export_model(*model, path, settings)
    assert path.read_text() == 'mine'
    path.unlink()
    for _ in range(2):  # what is its own is written anew
        export_model(*model, path, settings)


def test_weights_of_another_program_are_not_overwritten(tmp_path):
    theirs = tmp_path / 'network.bin'
    theirs.write_text('mine')
    with pytest.raises(ExportError, match=r'network\.bin is not of an earlier network\.xml'):
        export_model(*tiny(tmp_path), tmp_path / 'network.xml', ExportSettings(to='openvino'))
    assert theirs.read_text() == 'mine'


def test_a_list_of_images_in_another_encoding_is_named(tmp_path):
    path, checkpoint = tiny(tmp_path)
    config = Config.fromfile(path)
    (tmp_path / 'val.txt').write_bytes(b'caf\xe9\n')
    dataset = {'data_root': str(tmp_path), 'ann_file': 'val.txt'}
    config.val_dataloader.dataset.update(dataset)
    with pytest.raises(PspnetPluginError, match=r'val\.txt: is no UTF-8'):
        export_model(config, checkpoint, tmp_path / 'out.onnx')


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
        ({'opset': 17, 'to': 'openvino'}, 'opset=17 is for onnx'),
        ({'opset': 9}, 'opset=9 is too old'),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, named):
    with pytest.raises(ExportError, match=named):
        ExportSettings(**settings)


@pytest.mark.parametrize('to', ['onnx', 'openvino', 'torch-export'])
@pytest.mark.parametrize('for_weights', [False, True])
def test_a_full_disk_is_told_as_such_and_leaves_nothing_behind(
    tmp_path, config, checkpoint, to, for_weights
):
    weights = torch.load(checkpoint)['state_dict'].items()
    of_weights = sum(w.nbytes for name, w in weights if not name.startswith('auxiliary_head.'))
    room = of_weights if for_weights else 100_000
    path = tmp_path / 'out' / f'network{SUFFIXES[to]}'
    resource = pytest.importorskip('resource')
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))  # of each file, in bytes
    try:
        with pytest.raises(OSError, match='File too large') as raised:
            export_model(config, checkpoint, path, ExportSettings(to=to))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert raised.value.filename == str(path)
    assert not list(path.parent.iterdir())


def test_a_file_that_is_a_folder_and_images_that_are_none_are_told(tmp_path):
    config, checkpoint = tiny(tmp_path)
    (tmp_path / 'network.onnx').mkdir()
    with pytest.raises(ExportError, match='network.onnx is a folder'):
        export_model(config, checkpoint, tmp_path / 'network.onnx')
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'broken.png').write_text('no image')
    with pytest.raises(ExportError, match='broken.png cannot be read: '):
        export_model(config, checkpoint, tmp_path / 'a.onnx', check_images=tmp_path / 'images')


def test_without_the_list_of_validation_images_the_check_is_on_noise(tmp_path, street_scenes):
    config, checkpoint = tiny(tmp_path)
    cfg = Config.fromfile(config)
    cfg.val_dataloader.dataset.update(ann_file='no_such_list.txt', data_root=str(street_scenes))
    report = export_model(cfg, checkpoint, tmp_path / 'network.onnx')
    assert report.checked_on == NOISE


@pytest.mark.parametrize('opset', [13, 17, 18])
def test_older_operators_are_written_where_they_are_asked_for(tmp_path, opset):
    settings = ExportSettings(opset=opset, normalize=True, output='labels')
    path = tmp_path / 'network.onnx'
    export_model(*tiny(tmp_path), path, settings)
    versions = {entry.domain: entry.version for entry in onnx.load(path).opset_import}
    assert versions[''] == opset


def test_operators_that_the_exporter_does_not_know_are_refused(tmp_path):
    with pytest.raises(ExportError, match='99'):
        export_model(*tiny(tmp_path), tmp_path / 'network.onnx', ExportSettings(opset=99))


def test_the_end_of_the_name_must_fit_the_format(tmp_path):
    with pytest.raises(ExportError, match='ends in .onnx'):
        export_model(small_config(), 'any.pth', tmp_path / 'network.xml')
