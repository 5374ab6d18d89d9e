# Gradual unfreezing: the last stage is unfrozen at a tenth of the run, then one stage after the other,
# and the stem at half of it.
_base_ = '../psp_efflite0_bluemarble.py'

custom_hooks = [
    dict(
        type='LayerFreezeHook',
        schedule=dict(type='gradual_unfreeze', begin=0.1, end=0.5, lr_mult=0.5))
]
