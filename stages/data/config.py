"""Settings and names of the data sets, apart from the code that reads them, so that `--help` stays light."""

from __future__ import annotations

from pydantic import Field, model_validator

from stages.config import Config

VOC_CLASS_NAMES = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)


class ShapesConfig(Config):
    """How the embedded data set `shapes` is drawn. Ours; no published counterpart."""

    train: int = Field(default=60, ge=1, description="Images with masks (split `train`).")
    weak: int = Field(default=540, ge=0, description="Images with image-level labels only (split `weak`).")
    val: int = Field(default=150, ge=1, description="Images that are scored (split `val`).")
    seed: int = Field(default=0, ge=0, description="Seed; every image draws from (seed, image id) alone.")
    long_side: int = Field(default=96, ge=48, le=512, description="Long side of every image, in pixels.")
    shortest_side: float = Field(
        default=0.72, ge=0.5, le=1.0, description="Smallest short side as a share of the long side; aspect varies."
    )
    object_radius: tuple[float, float] = Field(
        default=(0.18, 0.42), description="Smallest and largest object radius as shares of the short side."
    )
    most_objects: int = Field(default=4, ge=1, le=6, description="Most objects drawn into one image.")
    clutter: int = Field(
        default=6, ge=0, le=40, description="Mean number of background things that belong to no class."
    )
    context_with: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="Chance that a class that has a context (boat: water, mushroom: moss) stands in it.",
    )
    context_without: float = Field(
        default=0.06, ge=0, le=1, description="Chance that a context appears in an image without its class."
    )
    border: int = Field(
        default=1, ge=0, le=4, description="Pixels of 255 on each side of an object's outline (VOC draws about 2-3)."
    )
    noise: float = Field(default=0.02, ge=0, le=0.3, description="Standard deviation of pixel noise, of 0..1.")

    @model_validator(mode="after")
    def _radii_are_ordered(self) -> ShapesConfig:
        smallest, largest = self.object_radius
        if not 0.08 <= smallest <= largest <= 0.6:
            raise ValueError(f"object_radius is {self.object_radius}, expected 0.08 <= smallest <= largest <= 0.6")
        return self
