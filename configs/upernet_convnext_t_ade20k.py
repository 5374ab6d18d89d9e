# UPerNet-ConvNeXt-T on ADE20K, 512 x 512 crops, 160k iterations; published with 8 GPUs x 2 images.
_base_ = [
    './_base_/models/upernet_convnext_t.py', './_base_/datasets/ade20k.py',
    './_base_/schedules/adamw_160k.py', './_base_/default_runtime.py'
]
model = dict(data_preprocessor=dict(size=(512, 512)))
optim_wrapper = dict(optimizer=dict(lr=1e-4, weight_decay=0.05))
train_dataloader = dict(batch_size=2)
