"""DSRG's growing step pixel by pixel, in plain Python: the reference of the test and of the benchmark."""

from __future__ import annotations

import numpy as np


def grow_by_flood_fill(probabilities, seeds, present, theta_b=0.99, theta_f=0.85):
    """Grows the label map `seeds` (h, w; 255 unlabelled) by `probabilities` (C, h, w), pixel by pixel.

    `present` lists the foreground class ids of the image.
    """
    height, width = seeds.shape
    classes = sorted({0, *(int(label) for label in present)})
    candidates = [[int(seeds[y, x]) for x in range(width)] for y in range(height)]
    for y in range(height):
        for x in range(width):
            winner = classes[0]
            for label in classes:
                if probabilities[label, y, x] > probabilities[winner, y, x]:
                    winner = label
            p = probabilities[winner, y, x]
            if p > theta_f and (winner != 0 or p > theta_b):
                candidates[y][x] = winner

    grown = {
        (label, y, x) for label in range(256) if label != 255 for y, x in zip(*np.where(seeds == label), strict=True)
    }
    for label in classes:
        visited = set()
        for start_y in range(height):
            for start_x in range(width):
                if (start_y, start_x) in visited or candidates[start_y][start_x] != label:
                    continue
                component, queue = [], [(start_y, start_x)]
                visited.add((start_y, start_x))
                while queue:
                    y, x = queue.pop()
                    component.append((y, x))
                    for ny in range(max(y - 1, 0), min(y + 2, height)):
                        for nx in range(max(x - 1, 0), min(x + 2, width)):
                            if (ny, nx) not in visited and candidates[ny][nx] == label:
                                visited.add((ny, nx))
                                queue.append((ny, nx))
                if not any(seeds[y, x] == label for y, x in component):
                    continue
                for y, x in component:
                    carried = [c for c in range(probabilities.shape[0]) if (c, y, x) in grown]
                    if len(carried) == 1 and carried[0] != label:
                        continue
                    grown.add((label, y, x))

    result = np.full((height, width), 255, dtype=np.uint8)
    for label, y, x in grown:
        assert result[y, x] == 255, "a pixel took two labels"
        result[y, x] = label
    return result
