# PSPNet-R18-d8 on Severstal steel: four kinds of defects, 256 x 512 crops, 20k iterations.
# Defects are rare and most images have none: their classes count more in the loss.
_base_ = [
    './_base_/models/pspnet_r18-d8.py', './_base_/datasets/prepared.py',
    './_base_/schedules/schedule_20k.py', './_base_/default_runtime.py'
]
prepare_dataset = 'pspnet prepare severstal severstal-steel-defect-detection.zip'
num_classes = 5
class_weights = [0.5, 4.0, 8.0, 1.0, 2.0]
crop_size = (256, 512)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='CheckLabels', num_classes=num_classes),
    # Takes another crop, at most ten times, while one class fills more than this part of it.
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=0.99),
    dict(type='RandomFlip', prob=[0.25, 0.25], direction=['horizontal', 'vertical']),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='CheckLabels', num_classes=num_classes),
    dict(type='PackSegInputs')
]
tta_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale_factor=ratio, keep_ratio=True)
                for ratio in (0.75, 1.0, 1.25)
            ],
            [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='CheckLabels', num_classes=num_classes)],
            [dict(type='PackSegInputs')]
        ])
]
dataset = dict(
    data_root='data/severstal',
    metainfo=dict(
        classes=('steel', 'defect_1', 'defect_2', 'defect_3', 'defect_4'),
        palette=[[90, 90, 90], [230, 25, 75], [255, 225, 25], [0, 130, 200], [60, 180, 75]]))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(size=crop_size),
    decode_head=dict(num_classes=num_classes, loss_decode=dict(class_weight=class_weights)),
    auxiliary_head=dict(num_classes=num_classes, loss_decode=dict(class_weight=class_weights)))
