custom_imports = dict(imports=['pspnet_plugin'])

default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
vis_backends = [dict(type='LocalVisBackend')]
# mmengine ends a run whose backend is not installed; it takes imports in configs for another syntax.
if __import__('importlib.util').util.find_spec('tensorboard'):
    vis_backends.append(dict(type='TensorboardVisBackend'))
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
resume = False

tta_model = dict(type='LogitsTTAModel')

# Not on by itself: custom_hooks = [_base_.early_stopping] in a config that builds on this one ends
# a run whose mIoU has not risen by 0.1 points in five validations.
early_stopping = dict(type='EarlyStoppingHook', monitor='mIoU', min_delta=0.1, patience=5)

# The loss on the validation images costs one more pass over them, so it is an option:
# default_hooks = dict(validation_loss=dict(type='ValidationLossHook'))
