# The head is trained on a frozen backbone for a third of the run; then everything is trained, the
# backbone at half the learning rate, after a warm-up over a tenth of the run.
_base_ = '../psp_efflite0_bluemarble.py'

custom_hooks = [
    dict(
        type='LayerFreezeHook',
        schedule=dict(type='probe_then_finetune', at=0.33, lr_mult=0.5, warmup=0.1))
]
