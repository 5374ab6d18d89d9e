# PSPNet-R18-d8 on Cityscapes, 80k iterations: a quarter of the channels of PSPNet-R50.
_base_ = [
    './_base_/models/pspnet_r18-d8.py', './_base_/datasets/cityscapes.py',
    './_base_/schedules/schedule_80k.py', './_base_/default_runtime.py'
]
model = dict(data_preprocessor=dict(size=(512, 1024)))
