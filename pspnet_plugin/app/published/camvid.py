"""CamVid: 701 street scenes of 960 x 720 pixels (Brostow et al., Pattern Recognition Letters 2009).

The 32 published classes are joined to the 11 that papers since SegNet report, with their split:
frames of four videos, of which 0001TP and 0016E5 are divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from .archive import Member, paired
from .dataset import IGNORED, LabelledImage, PublishedDataset, read_pair

CLASSES = {
    'sky': [(128, 128, 128)],
    # building, archway, bridge, tunnel, wall
    'building': [(128, 0, 0), (192, 0, 128), (0, 128, 64), (64, 0, 64), (64, 192, 0)],
    # column, traffic cone
    'pole': [(192, 192, 128), (0, 0, 64)],
    # road, markings for driving and not for driving
    'road': [(128, 64, 128), (128, 0, 192), (192, 0, 64)],
    # sidewalk, parking block, shoulder of the road
    'pavement': [(0, 0, 192), (64, 192, 128), (128, 128, 192)],
    # tree, other vegetation
    'tree': [(128, 128, 0), (192, 192, 0)],
    # sign, other text, traffic light
    'sign_symbol': [(192, 128, 128), (128, 128, 64), (0, 64, 64)],
    'fence': [(64, 64, 128)],
    # car, SUV or pickup, truck or bus, train, other that moves
    'car': [(64, 0, 128), (64, 128, 192), (192, 128, 192), (192, 64, 128), (128, 64, 64)],
    # pedestrian, child, cart or pram, animal
    'pedestrian': [(64, 64, 0), (192, 128, 64), (64, 0, 192), (64, 128, 64)],
    # bicyclist, motorcycle or scooter
    'bicyclist': [(0, 128, 192), (192, 0, 192)],
}
VOID = (0, 0, 0)
TABLE = {
    VOID: IGNORED,
    **{colour: label for label, colours in enumerate(CLASSES.values()) for colour in colours},
}
FRAME = r'((?:0001TP|0006R0|0016E5|Seq05VD)_f?(\d+))'


def split_of(video: str, frame: int) -> str:
    """The split that a frame is in."""
    if video == 'Seq05VD' or (video == '0001TP' and frame >= 8550):
        return 'test'
    return 'val' if video == '0016E5' and 7959 <= frame <= 8159 else 'train'


def find_images(members: Sequence[Member]) -> list[LabelledImage]:
    return [
        LabelledImage(
            name,
            split_of(name.split('_')[0], int(frame)),
            partial(read_pair, name, image, labels, TABLE, 'RGB'),
        )
        for (name, frame), image, labels in paired(members, rf'{FRAME}\.png', rf'{FRAME}_L\.png')
    ]


DATASET = PublishedDataset(
    'CamVid',
    '701_StillsRaw_full.zip and LabeledApproved_full.zip',
    '.png',
    {'train': 367, 'val': 101, 'test': 233},
    find_images,
)
