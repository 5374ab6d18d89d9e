"""An image's label map by OpenVINO: python openvino_predict.py MODEL.xml IMAGE OUT.png

Needs numpy, openvino, opencv-python and pillow. MODEL.xml: pspnet export ... --to openvino
--normalize --output probabilities (or labels, which leave the borders of classes coarser in large
images)
"""

import json
import sys

import cv2
import numpy as np
import openvino
from PIL import Image, TiffImagePlugin

file, image, out = sys.argv[1:]
model = openvino.Core().read_model(file)
about = {
    key: json.loads(model.get_rt_info(['pspnet', key]).value)
    for key in ('classes', 'palette', 'input', 'output')
}
network = openvino.compile_model(model, 'CPU')
needs = about['input']
if about['output']['kind'] == 'logits' or needs['mean']:
    sys.exit(f'{file}: export it with --normalize --output probabilities')
if needs.get('other_steps'):
    sys.exit(f'{file}: its config has {", ".join(needs["other_steps"])}, which is not done here')
if needs['window']:
    print('pspnet predict gives other labels: in windows, as the config says', file=sys.stderr)

# Of 8 bits in colours or grey; otherwise the image is taken as it is.
kind = cv2.IMREAD_COLOR if needs['channel_order'] else cv2.IMREAD_GRAYSCALE
if needs['dtype'] != 'uint8':
    kind = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_ANYCOLOR
pixels = cv2.imread(image, kind)  # upright, where EXIF says how
if pixels is None:
    sys.exit(f'{image}: OpenCV cannot read it')
if needs['dtype'] != 'uint8':
    with open(image, 'rb') as opened:
        start = opened.read(8)
        if start[:4] in (b'II*\0', b'MM\0*'):  # a TIFF, whose values OpenCV may scale or invert
            tags = TiffImagePlugin.ImageFileDirectory_v2(start)
            opened.seek(tags.next)
            tags.load(opened)
            if tags.get(258, (1,))[0] % 8 or tags.get(262) not in (1, 2):
                sys.exit(f'{image}: write its values as 8, 16 or 32 bits, grey or RGB')
if not np.can_cast(pixels.dtype, needs['dtype'], 'same_kind'):
    sys.exit(f'{image}: its values are {pixels.dtype}, those of the file {needs["dtype"]}')
if not np.isfinite(pixels).all():
    sys.exit(f'{image}: has pixels without data (NaN, infinite): put a value there')
height, width = pixels.shape[:2]
for resize in needs['resize']:  # as the network was trained and tested
    size = np.broadcast_to(resize['scale'], 2)
    if resize.get('keep_ratio'):
        sides = sorted((width, height))
        factor = min(max(size) / sides[1], min(size) / sides[0])
        size = (np.array([width, height]) * factor + 0.5).astype(int)
    pixels = cv2.resize(pixels, size.tolist(), interpolation=cv2.INTER_LINEAR)

if needs['size'] not in (None, [*pixels.shape[:2]]):
    sys.exit(f'{image}: becomes {pixels.shape[:2]} pixels, the file takes {needs["size"]}')
planes = np.atleast_3d(pixels.astype(needs['dtype'])).transpose(2, 0, 1)
found = network(planes[None])[0][0]
if about['output']['kind'] == 'probabilities':
    maps = np.stack([cv2.resize(plane, (width, height)) for plane in found])
    is_binary = len(maps) == 1
    labels = maps[0] > about['output']['threshold'] if is_binary else maps.argmax(0)
else:
    labels = cv2.resize(found, (width, height), interpolation=cv2.INTER_NEAREST)
if len(about['classes']) <= 256:
    painted = Image.fromarray(labels.astype(np.uint8))
    painted.putpalette(np.ravel(about['palette']).tolist())
else:
    painted = Image.fromarray(labels.astype(np.uint16))
painted.save(out)
for number, name in enumerate(about['classes']):
    print(f'{name}: {(labels == number).mean():.1%}')
