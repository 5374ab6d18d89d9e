"""An image's label map by ONNX Runtime: python onnxruntime_predict.py MODEL.onnx IMAGE OUT.png

Needs numpy, onnxruntime and pillow. MODEL.onnx: pspnet export ... --normalize --output labels
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

model, image, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
about = session.get_modelmeta().custom_metadata_map
pixels = np.asarray(Image.open(image).convert('RGB'))[:, :, ::-1]  # blue, green, red
labels = session.run(None, {'image': pixels.transpose(2, 0, 1)[None]})[0][0]
painted = Image.fromarray(labels)
painted.putpalette(np.ravel(json.loads(about['palette'])).tolist())
painted.save(out)
for number, name in enumerate(json.loads(about['classes'])):
    print(f'{name}: {(labels == number).mean():.1%}')
