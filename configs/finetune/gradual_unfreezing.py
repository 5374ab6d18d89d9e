# Gradual unfreezing: stage by stage, from the last at a tenth of the run to the stem at its half.
_base_ = '../psp_efflite0_bluemarble.py'

custom_hooks = [
    dict(
        type='LayerFreezeHook',
        schedule=dict(type='gradual_unfreeze', begin=0.1, end=0.5, lr_mult=0.5))
]
