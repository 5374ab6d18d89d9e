# The PSP head is trained on a backbone that stays frozen: the cheapest run, in time and in memory.
_base_ = '../psp_efflite0_bluemarble.py'

custom_hooks = [dict(type='LayerFreezeHook', freeze=['backbone'])]
