# Everything from random weights, for comparison with the pretrained ones.
_base_ = '../psp_efflite0_bluemarble.py'

model = dict(backbone=dict(init_cfg=None))
custom_hooks = []
