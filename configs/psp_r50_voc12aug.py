# PSPNet-R50-d8 on PASCAL VOC 2012 + SBD, 512 x 512 crops, 20k iterations; published with 4 GPUs x 4 images.
_base_ = [
    './_base_/models/pspnet_r50-d8.py', './_base_/datasets/pascal_voc12_aug.py',
    './_base_/schedules/schedule_20k.py', './_base_/default_runtime.py'
]
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    decode_head=dict(num_classes=21),
    auxiliary_head=dict(num_classes=21))
