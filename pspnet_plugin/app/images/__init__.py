"""Pixels: finding, decoding and drawing images and rasters."""
