"""How large the network of a plan sees images and objects: the crop, and the factor on the sides of images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from stages.planning import rules
from stages.planning.records import Choice, DataFacts, Machine, Wishes
from stages.planning.rules import CropRule


@dataclass(frozen=True)
class ImageView:
    """The crop, the factor on the sides of images, the median long side of the images, and the reasons."""

    crop: int
    factor: float
    long: float
    choices: tuple[Choice, ...]

    def scales(self) -> list[float]:
        low, high = rules.SCALES
        return [round(low * self.factor, 4), round(high * self.factor, 4)]

    def dsrg(self) -> dict[str, Any]:
        """Maps with about the cells of DSRG's, and a CRF that is as wide on them: 12 where 41 cells are the image."""
        stride = 4 if self.crop < 256 else 8
        return {"map_stride": stride, "crf_scale": round(12 * 41 * stride / (self.factor * self.long), 2)}

    def crf(self) -> dict[str, Any]:
        return {"scale": round(500 / self.long, 3), "labels": "tags", "splits": ["weak"]}


def choose_view(data: DataFacts, machine: Machine, wishes: Wishes) -> ImageView:
    """The view for images of these sizes (there is one at least), with objects of these sizes."""
    assert data.long is not None
    assert data.short is not None
    long, short = data.long.median, data.short.median
    rule = next(rule for rule in rules.CROPS if rule.holds(machine, long))
    factor, why, source = _factor(data, rule, long, short)
    scale = Choice("scale of images", f"{factor:g}", why, source)
    seen = f"{short:g} x {long:g} pixels" + (f", seen at a scale of {factor:g}" if factor != 1 else "")
    largest = max(data.long.high * factor, rules.LEAST_SIDE)
    crop, why, source = rule.crop, f"{rule.reason}; images of {seen}", rule.source
    if largest < rule.crop:
        crop, why = 16 * math.ceil(largest / 16), f"images of {seen} are no larger"
    if wishes.crop_size is not None:
        crop, why, source = wishes.crop_size, "as given", "--crop-size"
    return ImageView(crop, factor, long, (Choice("crop_size", str(crop), why, source), scale))


def _factor(data: DataFacts, rule: CropRule, long: float, short: float) -> tuple[float, str, str]:
    """The factor on the sides of images, why, and where the rule comes from."""
    if long < rules.LEAST_SIDE:
        factor = min(rules.LEAST_SIDE / long, rules.LARGEST_SCALE)
        return _rounded(factor), f"images of {long:g} pixels have few cells of {rules.CELL}", rules.REASONED
    if rule.image_side is None or long <= 1.2 * rule.image_side:
        return 1.0, "images are as large as the crop is made for", rule.source
    whole = rule.image_side / long
    small = data.objects.quarter * math.sqrt(short * long) if data.objects else None
    if small is not None and small * whole < rules.CELL:
        factor = min(rules.CELL / small, 1.0)
        why = f"a quarter of the objects are smaller than {small:.0f} pixels: they keep {factor * small:.0f}"
        return _rounded(factor), why, rules.REASONED
    return _rounded(whole), f"images become {rule.image_side} pixels long: a crop shows most of one", rule.source


def _rounded(factor: float) -> float:
    """Three digits, rounded up: a small object keeps its cell."""
    digits = 2 - math.floor(math.log10(factor))
    return math.ceil(factor * 10**digits) / 10**digits
