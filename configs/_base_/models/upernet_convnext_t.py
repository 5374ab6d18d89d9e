# UPerNet with an auxiliary FCN head on timm's ConvNeXt-T.
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='LabelMapEncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255),
    backbone=dict(
        type='TIMMBackbone',
        model_name='convnext_tiny',
        features_only=True,
        pretrained=False,
        drop_path_rate=0.4,
        init_cfg=dict(type='PretrainedBackbone', checkpoint='timm://convnext_tiny.fb_in1k')),
    decode_head=dict(
        type='FactorizedUPerHead',
        in_channels=[96, 192, 384, 768],
        in_index=[0, 1, 2, 3],
        pool_scales=(1, 2, 3, 6),
        channels=512,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=dict(
        type='FactorizedFCNHead',
        in_channels=384,
        in_index=2,
        channels=256,
        num_convs=1,
        concat_input=False,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole', seg_logits=False))
