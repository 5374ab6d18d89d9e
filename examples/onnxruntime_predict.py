"""An image's label map by ONNX Runtime: python onnxruntime_predict.py MODEL.onnx IMAGE OUT.png

Needs numpy, onnxruntime, opencv-python and pillow. MODEL.onnx: pspnet export ... --normalize
--output probabilities (or labels, which leave the borders of classes coarser in large images)
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime
from PIL import Image

model, image, out = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
about = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
if about['output']['kind'] == 'logits' or about['input']['mean']:
    sys.exit(f'{model}: export it with --normalize --output probabilities')

# Colours of 8 bits; otherwise the image is taken as it is.
colours = about['input']['channel_order'] == 'BGR' and about['input']['dtype'] == 'uint8'
kind = cv2.IMREAD_COLOR if colours else cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
pixels = cv2.imread(image, kind)  # upright, where EXIF says how
if pixels is None:
    sys.exit(f'{image}: OpenCV cannot read it')
if not np.isfinite(pixels).all():
    sys.exit(f'{image}: has pixels without data (NaN, infinite): put a value there')
height, width = pixels.shape[:2]
for resize in about['input']['resize']:  # as the network was trained and tested
    size = np.array(resize['scale'])
    if resize.get('keep_ratio'):
        sides = sorted((width, height))
        factor = min(max(size) / sides[1], min(size) / sides[0])
        size = (np.array([width, height]) * factor + 0.5).astype(int)
    pixels = cv2.resize(pixels, size.tolist(), interpolation=cv2.INTER_LINEAR)

planes = np.atleast_3d(pixels.astype(about['input']['dtype'])).transpose(2, 0, 1)
found = session.run(None, {'image': planes[None]})[0][0]
if about['output']['kind'] == 'probabilities':
    maps = np.stack([cv2.resize(plane, (width, height)) for plane in found])
    is_binary = len(maps) == 1
    labels = maps[0] > about['output']['threshold'] if is_binary else maps.argmax(0)
else:
    labels = cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST)
painted = Image.fromarray(labels.astype(np.uint8))
painted.putpalette(np.ravel(about['palette']).tolist())
painted.save(out)
for number, name in enumerate(about['classes']):
    print(f'{name}: {(labels == number).mean():.1%}')
