"""What the inspect tool needs beyond a load: the loads of a config, and other libraries' models."""
