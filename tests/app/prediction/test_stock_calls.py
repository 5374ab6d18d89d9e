"""mmseg's own calls for prediction work on every config of the plugin, accelerated or not."""

import mmcv
import numpy as np
import pytest
from mmseg.apis import MMSegInferencer, inference_model, init_model, show_result_pyplot

from tests.helpers.prediction import CONFIGS, random_checkpoint, small_config, write_photo

CASES = [(path, False) for path in CONFIGS]
# One for each segmentor and each head that is replaced.
ACCELERATED = ('psp_r50_cityscapes', 'psp_r18_potsdam', 'upernet_convnext_t_ade20k')
CASES += [(path, True) for path in CONFIGS if path.stem in ACCELERATED]


@pytest.mark.parametrize(
    ('config', 'accelerated'), CASES, ids=lambda value: getattr(value, 'stem', value)
)
def test_stock_calls_predict_draw_and_agree(config, accelerated, accelerate, tmp_path):
    if accelerated:
        accelerate()
    cfg = small_config(config)
    checkpoint = random_checkpoint(cfg, tmp_path / 'random.pth')
    flag = cfg.test_pipeline[0].get('color_type', 'color')
    image = write_photo(tmp_path / 'image.png')
    if flag == 'unchanged':  # one channel of 16 bits
        mmcv.imwrite(mmcv.imread(image, 'grayscale').astype(np.uint16) * 257, image)
    cfg.dump(tmp_path / 'config.py')

    model = init_model(tmp_path / 'config.py', checkpoint, device='cpu')
    result = inference_model(model, image)
    labels = result.pred_sem_seg.data[0].numpy()
    assert labels.shape == (67, 101)
    assert np.unique(labels).size > 1
    drawn = tmp_path / 'drawn.png'
    show_result_pyplot(model, image, result, show=False, out_file=str(drawn))
    assert mmcv.imread(str(drawn)).shape == (67, 101, 3)
    by_array = inference_model(model, mmcv.imread(image, flag)).pred_sem_seg.data[0].numpy()
    assert np.array_equal(by_array, labels)

    inferencer = MMSegInferencer(str(tmp_path / 'config.py'), checkpoint, device='cpu')
    again = inferencer(image, out_dir=str(tmp_path / 'out'))['predictions']
    assert np.array_equal(again, labels)
