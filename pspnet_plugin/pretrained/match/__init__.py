"""From the tensors of a file to the value that each tensor of a module receives."""
