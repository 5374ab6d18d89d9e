# Everything from random weights, for comparison with the pretrained ones. Of the learning rates tried,
# 0.05 served the pretrained ones best, and 0.1 these.
_base_ = '../psp_efflite0_bluemarble.py'

model = dict(backbone=dict(init_cfg=None))
custom_hooks = []
optim_wrapper = dict(optimizer=dict(lr=0.1))
