"""A trained network as a file that runs without PyTorch, mmseg or this plugin."""
