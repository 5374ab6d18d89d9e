# Fine-tuning of everything from the first iteration on.
_base_ = '../psp_efflite0_bluemarble.py'

custom_hooks = []
