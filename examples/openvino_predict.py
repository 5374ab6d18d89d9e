"""An image's label map by OpenVINO: python openvino_predict.py MODEL.xml IMAGE OUT.png

Needs numpy, openvino and pillow. MODEL.xml: pspnet export ... --to openvino --normalize --output
labels
"""

import json
import sys

import numpy as np
import openvino
from PIL import Image

file, image, out = sys.argv[1:]
model = openvino.Core().read_model(file)
about = {
    key: json.loads(model.get_rt_info(['pspnet', key]).value)
    for key in ('classes', 'palette', 'input')
}
network = openvino.compile_model(model, 'CPU')
colours = about['input']['channel_order'] == 'BGR'  # otherwise the image is taken as it is
pixels = np.asarray(Image.open(image).convert('RGB'))[..., ::-1] if colours else Image.open(image)
pixels = np.atleast_3d(np.asarray(pixels, about['input']['dtype']))
labels = network(pixels.transpose(2, 0, 1)[None])[0][0]
painted = Image.fromarray(labels)
painted.putpalette(np.ravel(about['palette']).tolist())
painted.save(out)
for number, name in enumerate(about['classes']):
    print(f'{name}: {(labels == number).mean():.1%}')
