# PSPNet-R101-d8 on Cityscapes, the recipe of psp_r50_cityscapes.py.
_base_ = './psp_r50_cityscapes.py'
model = dict(
    backbone=dict(
        depth=101, init_cfg=dict(checkpoint='open-mmlab://resnet101_v1c')))
