"""Lists of image ids: reading them, published ones, drawing new ones."""
