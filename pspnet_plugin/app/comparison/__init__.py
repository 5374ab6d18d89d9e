"""Pretrained weights without a run: what a config would load, and other libraries' own models."""
