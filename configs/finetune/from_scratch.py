# Everything from random weights: what the pretrained ones are compared with.
_base_ = '../psp_efflite0_bluemarble.py'

model = dict(backbone=dict(init_cfg=None))
custom_hooks = []
