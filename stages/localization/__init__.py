"""Object localisation from image-level labels: class-activation maps, saliency, seeds, region growing, refinement."""
