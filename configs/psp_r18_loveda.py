# PSPNet-R18-d8 on LoveDA, 512 x 512 crops, 80k iterations.
_base_ = [
    './_base_/models/pspnet_r18-d8.py', './_base_/datasets/loveda.py',
    './_base_/schedules/schedule_80k.py', './_base_/default_runtime.py'
]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=7),
    auxiliary_head=dict(num_classes=7))
