"""Where the objects are, from image-level labels: activation maps, saliency, seeds and their growing."""
