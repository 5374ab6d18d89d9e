# PSPNet-R18-d8 on Synapse CT: eight organs, slices of 16 bits, Dice beside cross-entropy.
_base_ = [
    './_base_/models/pspnet_r18-d8.py', './_base_/datasets/prepared.py',
    './_base_/schedules/schedule_20k.py', './_base_/default_runtime.py'
]
prepare_dataset = 'pspnet prepare synapse RawData.zip'
num_classes = 9
crop_size = (512, 512)
# 16 bits stay 16 bits; as floats, because torch before 2.3 has no unsigned ones.
load_image = dict(type='LoadImageFromFile', color_type='unchanged', to_float32=True)
# No flips: the left kidney would become the right one.
train_pipeline = [
    load_image,
    dict(type='LoadAnnotations'),
    dict(type='CheckLabels', num_classes=num_classes),
    dict(type='RandomResize', scale=(512, 512), ratio_range=(0.75, 1.5), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='PackSegInputs')
]
test_pipeline = [
    load_image,
    dict(type='LoadAnnotations'),
    dict(type='CheckLabels', num_classes=num_classes),
    dict(type='PackSegInputs')
]
tta_pipeline = [
    load_image,
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=ratio, keep_ratio=True)
                for ratio in (0.75, 1.0, 1.25)
            ],
            [dict(type='LoadAnnotations')],
            [dict(type='CheckLabels', num_classes=num_classes)],
            [dict(type='PackSegInputs')]
        ])
]
dataset = dict(
    data_root='data/synapse',
    img_suffix='.png',
    metainfo=dict(
        classes=('background', 'aorta', 'gallbladder', 'left_kidney', 'right_kidney', 'liver',
                 'pancreas', 'spleen', 'stomach'),
        palette=[[0, 0, 0], [0, 0, 255], [0, 255, 0], [255, 0, 0], [0, 255, 255], [255, 0, 255],
                 [255, 255, 0], [60, 255, 255], [240, 240, 240]]))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
# Papers report the Dice coefficient too; mmseg's is that of all pixels, not the mean of cases.
val_evaluator = dict(type='ClassIoUMetric', iou_metrics=['mIoU', 'mDice'])
test_evaluator = val_evaluator
model = dict(
    data_preprocessor=dict(
        # 0 to 65535 becomes -1 to 1.
        mean=[32767.5], std=[32767.5], bgr_to_rgb=False, size=crop_size),
    backbone=dict(in_channels=1),
    decode_head=dict(
        num_classes=num_classes,
        loss_decode=[
            dict(type='CrossEntropyLoss', loss_name='loss_ce'),
            dict(type='DiceLoss', use_sigmoid=False, loss_name='loss_dice', loss_weight=3.0)
        ]),
    auxiliary_head=dict(num_classes=num_classes))
