# Fine-tuning above a frozen stem: the stem and the first two stages keep their ImageNet filters,
# which detect edges and colours in any task, and need no backward pass.
_base_ = '../psp_efflite0_bluemarble.py'

custom_hooks = [dict(type='LayerFreezeHook', freeze=['backbone.stages[:2]'])]
