"""From a reference such as ``torchvision://resnet50`` to the tensors of a file."""
