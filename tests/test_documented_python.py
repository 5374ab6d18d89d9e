"""Python in the documents runs: each document's, from top to bottom, on small stand-ins."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from mmengine.logging import HistoryBuffer
from PIL import Image

from pspnet_plugin.pretrained.source.schemes import resolve
from pspnet_plugin.utils.config_files import find_config
from tests.helpers.documents import DOCUMENTS, TRANSLATIONS, code_blocks, is_config
from tests.helpers.networks import saved
from tests.helpers.prediction import random_checkpoint, small_config, write_photo
from tests.helpers.processes import ROOT

CONFIGS = ('my_config.py', 'CONFIG', 'psp_r50_cityscapes')
CHECKPOINTS = (
    'work_dirs/my_config/iter_40000.pth',
    'CHECKPOINT',
    'mmseg://pspnet_r50-d8_4xb2-40k_cityscapes-512x1024',
)
WEIGHTS = ('torchvision://resnet50',)
PROGRAMS = {
    path.name: '\n'.join(snippets)
    for path in DOCUMENTS
    if path not in TRANSLATIONS  # They have the code of the English ones.
    and (snippets := [code for code in code_blocks(path, 'python') if not is_config(code)])
}


@pytest.fixture(scope='module')
def stand_ins(tmp_path_factory) -> dict[str, str]:
    """What the documents' names of configs, checkpoints and weights become here."""
    folder = tmp_path_factory.mktemp('reader')
    config = small_config(ROOT / 'configs' / 'psp_r50_cityscapes.py')
    config.dump(folder / 'small.py')
    checkpoint = random_checkpoint(config, folder / 'random.pth')
    with_log = torch.load(checkpoint, weights_only=False)  # As that of a run, which torch refuses.
    with_log['message_hub'] = {'log_scalars': {'loss': HistoryBuffer(np.ones(2), np.ones(2))}}
    torch.save(with_log, checkpoint)
    weights = saved(torchvision.models.resnet50(weights=None), folder / 'resnet50.pth')
    return {
        **dict.fromkeys(CONFIGS, str(folder / 'small.py')),
        **dict.fromkeys(CHECKPOINTS, checkpoint),
        **dict.fromkeys(WEIGHTS, weights),
    }


@pytest.mark.parametrize('program', PROGRAMS.values(), ids=PROGRAMS)
def test_python_of_a_document_runs(program, stand_ins, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photo(Path('photos/street.png'))
    for name, here in stand_ins.items():
        program = program.replace(f"'{name}'", repr(here))
    torch.manual_seed(0)
    after: dict = {}
    exec(compile(program, 'document', 'exec'), after)
    label_maps = [*Path().glob('labels.png'), *Path().glob('labels/*.png')]
    assert label_maps or Path('weights.pth').exists()
    for path in label_maps:
        assert Image.open(path).size == Image.open('photos/street.png').size
    if Path('weights.pth').exists():
        weights = torch.load('weights.pth', weights_only=True)
        assert len(weights['meta']['dataset_meta']['classes']) == 19
    if 'optimizer' in after:
        assert after['report'].coverage == 1
        assert all(weight.isfinite().all() for weight in after['head'].parameters())


def test_documents_name_configs_and_weights_that_exist():
    assert len(PROGRAMS) >= 3
    assert Path(find_config('psp_r50_cityscapes')).is_file()
    for program in PROGRAMS.values():
        for reference in re.findall(r"'(\w+://[^']+)'", program):
            assert resolve(reference)
