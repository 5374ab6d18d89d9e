# SegFormer-B0 on Cityscapes, 1024 x 1024 crops, 160k iterations; published with 8 GPUs x 1 image.
_base_ = [
    './_base_/models/segformer_b0.py', './_base_/datasets/cityscapes.py',
    './_base_/schedules/adamw_160k.py', './_base_/default_runtime.py'
]
crop_size = (1024, 1024)
model = dict(
    data_preprocessor=dict(size=crop_size),
    test_cfg=dict(mode='slide', crop_size=crop_size, stride=(768, 768)))
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'pos_block': dict(decay_mult=0.),
            'norm': dict(decay_mult=0.),
            'head': dict(lr_mult=10.)
        }))
train_pipeline = [
    dict(step, crop_size=crop_size) if step['type'] == 'RandomCrop' else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
