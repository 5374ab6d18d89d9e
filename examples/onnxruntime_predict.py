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
about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
colours = about['input']['channel_order'] == 'BGR'  # otherwise the image is taken as it is
pixels = np.asarray(Image.open(image).convert('RGB'))[..., ::-1] if colours else Image.open(image)
pixels = np.atleast_3d(np.asarray(pixels, about['input']['dtype']))
labels = session.run(None, {'image': pixels.transpose(2, 0, 1)[None]})[0][0]
painted = Image.fromarray(labels)
painted.putpalette(np.ravel(about['palette']).tolist())
painted.save(out)
for number, name in enumerate(about['classes']):
    print(f'{name}: {(labels == number).mean():.1%}')
