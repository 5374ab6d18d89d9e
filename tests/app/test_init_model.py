"""``init_model``: mmseg's model of a config, faster, with the same labels, or an error."""

import copy
import re

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner.checkpoint import save_checkpoint
from mmseg.apis import inference_model
from mmseg.apis import init_model as stock_init_model
from mmseg.datasets import CityscapesDataset
from mmseg.models.decode_heads import PSPHead
from mmseg.models.segmentors import EncoderDecoder
from mmseg.registry import MODELS

from pspnet_plugin.app import models as model_module
from pspnet_plugin.app.models import init_model, make_fast
from pspnet_plugin.app.prediction import predict
from pspnet_plugin.app.training import stock_tools
from pspnet_plugin.errors import PredictionError, PspnetPluginError
from pspnet_plugin.heads import FactorizedPSPHead
from pspnet_plugin.pretrained.errors import PretrainedWeightsError
from pspnet_plugin.speed.cpu_amp import bfloat16_on_this_cpu
from pspnet_plugin.utils.config_files import read_config
from tests.helpers.networks import small_segmentor
from tests.helpers.prediction import (
    random_checkpoint,
    share_equal,
    small_config,
    stock_build,
    write_photo,
)
from tests.helpers.processes import ROOT

STOCK = (
    stock_tools().parent / 'configs' / 'pspnet' / 'pspnet_r50-d8_4xb2-40k_cityscapes-512x1024.py'
)
CITYSCAPES = CityscapesDataset.METAINFO
POINT_REND = 'pointrend_r50_4xb2-80k_cityscapes-512x1024.py'


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A stock config and a checkpoint of it."""
    cfg = small_config(STOCK)
    return cfg, random_checkpoint(cfg, tmp_path_factory.mktemp('trained') / 'random.pth')


def test_model_of_a_stock_config_is_the_plugins_and_the_registry_stays(trained, tmp_path):
    cfg, checkpoint = trained
    before = dict(MODELS._module_dict)
    said = copy.deepcopy(cfg._cfg_dict)
    model = init_model(cfg, checkpoint, device='cpu')
    assert type(model.decode_head) is FactorizedPSPHead
    assert not any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in model.modules())
    assert model.backbone.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert not model.training
    assert MODELS._module_dict == before
    assert MODELS.get('PSPHead') is PSPHead
    assert MODELS.get('EncoderDecoder') is EncoderDecoder
    assert cfg._cfg_dict == said
    assert model.dataset_meta['classes'][0] == 'road'
    assert model.dataset_meta['palette'][0] == [128, 64, 128]

    image = write_photo(tmp_path / 'image.png')
    stock = stock_init_model(copy.deepcopy(cfg), checkpoint, device='cpu')
    expected = inference_model(stock, image).pred_sem_seg.data
    result = inference_model(model, image)
    assert 'seg_logits' not in result
    assert share_equal(result.pred_sem_seg.data, expected) >= 0.9999


def test_network_that_fails_channels_last_predicts_contiguous():
    stock, image = small_segmentor().eval(), torch.randn(1, 3, 64, 64)
    layer = stock.backbone.layer1
    layer.register_forward_pre_hook(lambda _, args: args[0].view(-1).view_as(args[0]))
    with torch.no_grad():
        expected = stock(image, mode='tensor')
        model = make_fast(stock)
        assert model.backbone.layer1[0].conv1.weight.is_contiguous()
        torch.testing.assert_close(model(image, mode='tensor'), expected, rtol=1e-3, atol=1e-4)


def test_cascade_whose_last_head_needs_more_than_features_predicts_as_stock(tmp_path):
    cfg = Config.fromfile(STOCK.parents[1] / 'point_rend' / POINT_REND)
    cfg.model.update(pretrained=None)
    cfg.model.backbone.update(depth=18, base_channels=8, stem_channels=8)
    cfg.model.neck.in_channels = [8, 16, 32, 64]
    cfg.test_pipeline[1].scale = (160, 96)
    try:
        model = stock_build(cfg)
    except RuntimeError as error:  # of a fork of mmcv without compiled operators
        pytest.skip(str(error))
    content = {'state_dict': model.state_dict(), 'meta': {'dataset_meta': CITYSCAPES}}
    save_checkpoint(content, str(tmp_path / 'random.pth'))
    image = write_photo(tmp_path / 'image.png')
    found = inference_model(init_model(cfg, tmp_path / 'random.pth', device='cpu'), image)
    stock = stock_init_model(cfg, str(tmp_path / 'random.pth'), device='cpu')
    expected = inference_model(stock, image).pred_sem_seg.data
    assert share_equal(found.pred_sem_seg.data, expected) >= 0.9999


COLOURS = [[number, 2 * number, 200] for number in range(19)]


@pytest.mark.parametrize(
    ('palette', 'stays'),
    [
        (np.array(COLOURS, np.uint8), True),
        (tuple(map(tuple, COLOURS)), True),
        (np.array(COLOURS, float), True),
        (torch.tensor(COLOURS), True),
        ([[300, 0, -1], *COLOURS[1:]], False),
        (np.array(COLOURS) / 255, False),
        (COLOURS[:18], False),
        ([[1, 2, 3, 4]] * 19, False),
        ([[1, 2], *COLOURS[1:]], False),
        (list(range(19)), False),
        ('random', False),
    ],
    ids=str,
)
def test_palette_of_a_checkpoint_counts_where_it_is_one(trained, tmp_path, palette, stays):
    cfg, checkpoint = trained
    content = torch.load(checkpoint, weights_only=False)
    names = [f'class {number}' for number in range(19)]
    content['meta'] = {'dataset_meta': {'classes': np.array(names), 'palette': palette}}
    torch.save(content, tmp_path / 'with palette.pth')
    model = init_model(cfg, tmp_path / 'with palette.pth', device='cpu')
    assert model.dataset_meta['classes'] == names
    (found,) = predict(model, write_photo(tmp_path / 'image.png'))
    # Otherwise the colours of the config's dataset.
    assert found.palette == (COLOURS if stays else CITYSCAPES['palette'])
    found.overlay(legend=True)


def test_class_that_a_config_names_in_full_stays_the_stock_one(trained):
    cfg, checkpoint = copy.deepcopy(trained[0]), trained[1]
    cfg.model.decode_head.type = 'mmseg.models.PSPHead'
    assert type(init_model(cfg, checkpoint, device='cpu').decode_head) is PSPHead


def test_preprocessor_beside_the_model_counts_as_in_a_run(trained):
    cfg = copy.deepcopy(trained[0])
    cfg.data_preprocessor = cfg.model.pop('data_preprocessor')
    model = init_model(cfg, trained[1], device='cpu')
    assert model.data_preprocessor.mean.flatten().tolist() == pytest.approx(
        [123.675, 116.28, 103.53]
    )


@pytest.mark.parametrize('name', ['psp_r18_cityscapes', 'pspnet_plugin::psp_r18_cityscapes.py'])
def test_config_can_be_named(name):
    assert read_config(name).model.backbone.depth == 18


def test_pretrained_weights_of_the_config_are_not_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr('timm.models._builder.load_pretrained', None)  # would be called
    cfg = small_config(ROOT / 'configs' / 'psp_efflite0_bluemarble.py')
    checkpoint = random_checkpoint(cfg, tmp_path / 'random.pth')
    cfg.model.backbone.pretrained = True
    cfg.model.backbone.init_cfg.checkpoint = 'http://127.0.0.1:9/nothing.pth'
    init_model(cfg, checkpoint, device='cpu')


def test_checkpoint_of_other_classes_is_refused(trained):
    cfg = copy.deepcopy(trained[0])
    cfg.model.decode_head.num_classes = 4
    with pytest.raises(PredictionError, match='19 classes in the checkpoint, 4 in the module'):
        init_model(cfg, trained[1], device='cpu')


@pytest.mark.parametrize(
    ('kept', 'message'),
    [
        ('backbone', r'has 110 of .* 137 .*missing: decode_head'),
        (r'(?!decode_head\.conv_seg\.bias)', r'missing: decode_head\.conv_seg\.bias; unused: aux'),
    ],
)
def test_checkpoint_without_some_weights_is_refused_with_their_names(
    trained, tmp_path, kept, message
):
    content = torch.load(trained[1], weights_only=False)['state_dict']
    partly = {name: value for name, value in content.items() if re.match(kept, name)}
    torch.save({'state_dict': partly}, tmp_path / 'partly.pth')
    with pytest.raises(PredictionError, match=message):
        init_model(trained[0], tmp_path / 'partly.pth', device='cpu')


def test_what_is_said_of_a_checkpoint_of_a_run_that_diverged_is_that(trained, tmp_path):
    content = torch.load(trained[1], weights_only=False)['state_dict']
    content['decode_head.conv_seg.weight'][0] = float('nan')
    torch.save(content, tmp_path / 'diverged.pth')
    with pytest.raises(PspnetPluginError, match=r'conv_seg\.weight NaN or infinite .* diverged'):
        init_model(trained[0], tmp_path / 'diverged.pth', device='cpu')


def test_checkpoint_without_an_auxiliary_head_and_names_will_do(trained, tmp_path):
    content = torch.load(trained[1], weights_only=False)['state_dict']
    main = {name: value for name, value in content.items() if not name.startswith('auxiliary')}
    torch.save(main, tmp_path / 'main.pth')
    model = init_model(trained[0], tmp_path / 'main.pth', device='cpu')
    assert model.dataset_meta['classes'][0] == 'road'  # as the config's dataset says


@pytest.mark.parametrize(
    ('wrong', 'error', 'message'),
    [
        ({'device': 'cuda:77'}, PredictionError, "device='cuda:77'"),
        ({'device': 'gpu'}, PredictionError, "device='gpu'"),
        ({'dtype': 'half', 'device': 'cpu'}, PredictionError, "dtype='half' is none of"),
        ({'dtype': 'float16', 'device': 'cpu'}, PredictionError, 'On CPUs use bfloat16'),
        ({'checkpoint': 'no.pth'}, PretrainedWeightsError, r'There is no file .*no\.pth'),
        ({'config': 'psp_r50_cityscape'}, PspnetPluginError, r'cityscape is no file. Did you mean'),
    ],
)
def test_arguments_that_mean_nothing_are_named(trained, wrong, error, message):
    with pytest.raises(error, match=message):
        init_model(**{**dict(zip(('config', 'checkpoint'), trained)), **wrong})


def test_bfloat16_predicts_nearly_the_same_labels_and_the_log_says_how(
    trained, tmp_path, monkeypatch
):
    image = write_photo(tmp_path / 'image.png')
    seen, labels, said = [], [], []
    monkeypatch.setattr(model_module, 'print_log', lambda message, logger: said.append(message))
    for dtype in (None, 'bfloat16', torch.bfloat16):
        model = init_model(*trained, device='cpu', dtype=dtype)
        model.decode_head.register_forward_hook(lambda *args: seen.append(args[2].dtype))
        labels.append(inference_model(model, image).pred_sem_seg.data)
    assert seen == [torch.float32, torch.bfloat16, torch.bfloat16]
    assert share_equal(labels[1], labels[0]) > 0.9
    assert torch.equal(labels[1], labels[2])
    assert said == [bfloat16_on_this_cpu()] * 2


def test_compiled_model_predicts_the_same_labels(trained, tmp_path, monkeypatch):
    graphs = []

    def compile(function):
        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward

        return torch._dynamo.optimize(backend)(function)

    monkeypatch.setattr(torch, 'compile', compile)
    image = write_photo(tmp_path / 'image.png')
    plain = inference_model(init_model(*trained, device='cpu'), image).pred_sem_seg.data
    model = init_model(*trained, device='cpu', compile=True)
    compiled = inference_model(model, image).pred_sem_seg.data
    assert graphs
    assert share_equal(compiled, plain) >= 0.9999
