"""From logs and predictions to curves and matrices."""
