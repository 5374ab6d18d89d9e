# UPerNet-Swin-T on ADE20K, 512 x 512 crops, 160k iterations; published with 8 GPUs x 2 images.
_base_ = [
    './_base_/models/upernet_swin_t.py', './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py', './_base_/default_runtime.py'
]
model = dict(data_preprocessor=dict(size=(512, 512)))
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys={
            'relative_position_bias_table': dict(decay_mult=0.),
            'norm': dict(decay_mult=0.)
        }))
train_dataloader = dict(batch_size=2)
# SwinTransformer has an init_weights of its own, which an init_cfg would not reach.
custom_hooks = [
    dict(
        type='PretrainedBackboneHook',
        checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/'
        'swin_tiny_patch4_window7_224_20220317-1cdeb081.pth')
]
