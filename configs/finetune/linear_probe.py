# Linear probing: the backbone is frozen, and one 1 x 1 convolution on its last map is trained.
# Shows how much of the task the pretrained features solve already.
_base_ = '../psp_efflite0_bluemarble.py'

model = dict(
    decode_head=dict(
        _delete_=True,
        type='FCNHead',
        in_channels=320,
        in_index=4,
        channels=320,
        num_convs=0,
        concat_input=False,
        dropout_ratio=0,
        num_classes=2,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', avg_non_ignore=True)))
custom_hooks = [dict(type='LayerFreezeHook', freeze=['backbone'])]
