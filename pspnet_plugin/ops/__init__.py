"""Pure functions of tensors: no registry, no runner, no file."""
