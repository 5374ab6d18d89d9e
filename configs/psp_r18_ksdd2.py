# PSPNet-R18-d8 on KolektorSDD2: surfaces with defects, whole images, 20k iterations.
# Nine in ten images have no defect: its pixels count more in the loss.
_base_ = [
    './_base_/models/pspnet_r18-d8.py', './_base_/datasets/prepared.py',
    './_base_/schedules/schedule_20k.py', './_base_/default_runtime.py'
]
prepare_dataset = 'pspnet prepare ksdd2 KolektorSDD2.zip'
num_classes = 2
class_weights = [1.0, 10.0]
size = (640, 232)  # height, width; the images are about 630 x 230
resize = dict(type='Resize', scale=(232, 640), keep_ratio=False)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='CheckLabels', num_classes=num_classes), resize,
    dict(type='RandomFlip', prob=[0.25, 0.25], direction=['horizontal', 'vertical']),
    dict(type='PackSegInputs')
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    resize,
    # After Resize: predictions are compared with the label map at its own size.
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
                dict(type='Resize', scale=scale, keep_ratio=False)
                for scale in ((176, 480), (232, 640), (288, 800))
            ],
            [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)],
            [dict(type='LoadAnnotations')],
            [dict(type='CheckLabels', num_classes=num_classes)],
            [dict(type='PackSegInputs')]
        ])
]
dataset = dict(
    data_root='data/ksdd2',
    img_suffix='.png',
    metainfo=dict(classes=('surface', 'defect'), palette=[[90, 90, 90], [230, 25, 75]]))
train_dataloader = dict(dataset=dict(pipeline=train_pipeline, **dataset))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, **dataset))
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(size=size),
    decode_head=dict(num_classes=num_classes, loss_decode=dict(class_weight=class_weights)),
    auxiliary_head=dict(num_classes=num_classes, loss_decode=dict(class_weight=class_weights)))
