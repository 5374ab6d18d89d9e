# UPerNet on DINOv3's ConvNeXt-T. Its weights have a licence of their own, the DINOv3 License of Meta
# (dinov3-license at Hugging Face), which restricts what they may be used for: read it first.
_base_ = './upernet_convnext_t_ade20k.py'
model = dict(
    backbone=dict(init_cfg=dict(checkpoint='timm://convnext_tiny.dinov3_lvd1689m')))
