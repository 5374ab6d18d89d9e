# PSPNet on a ResNetV1c-18 of output stride 8: a quarter of the channels of PSPNet-R50.
_base_ = './pspnet_r50-d8.py'
model = dict(
    backbone=dict(depth=18, init_cfg=dict(checkpoint='open-mmlab://resnet18_v1c')),
    decode_head=dict(in_channels=512, channels=128),
    auxiliary_head=dict(in_channels=256, channels=64))
