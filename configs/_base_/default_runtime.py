custom_imports = dict(imports=['pspnet_plugin'])

default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
visualizer = dict(
    type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer')
# visualizer = dict(vis_backends=_base_.local_and_tensorboard) in a config that builds on this one
# logs to TensorBoard too, which must be installed.
local_and_tensorboard = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False

tta_model = dict(type='SegTTAModel')

# Not on by itself: custom_hooks = [_base_.early_stopping] in a config that builds on this one ends
# a run whose mIoU has not risen by 0.1 points in five validations.
early_stopping = dict(type='EarlyStoppingHook', monitor='mIoU', min_delta=0.1, patience=5)
