"""Why weights were refused, which setting mends it, and networks that look alike."""
