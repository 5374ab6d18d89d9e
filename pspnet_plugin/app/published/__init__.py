"""Published datasets of several fields: from the archive as it comes to images and label maps."""
