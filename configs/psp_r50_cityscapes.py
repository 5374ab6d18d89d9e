# PSPNet-R50-d8 on Cityscapes, 512 x 1024 crops, 40k iterations; published with 4 GPUs x 2 images.
_base_ = [
    './_base_/models/pspnet_r50-d8.py', './_base_/datasets/cityscapes.py',
    './_base_/schedules/schedule_40k.py', './_base_/default_runtime.py'
]
model = dict(data_preprocessor=dict(size=(512, 1024)))
