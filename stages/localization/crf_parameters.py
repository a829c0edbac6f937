"""The settings of the dense CRF, and the published sets of them. Loads nothing."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from artifacts.errors import ConfigError

UNARIES = ("log", "probability", "labels")
BACKENDS = ("auto", "pydensecrf", "torch")


@dataclass(frozen=True)
class CrfParameters:
    """Weights and widths of the two kernels, and how scores become energies.

    `*_sxy` are standard deviations in pixels of the given image, `bilateral_srgb` is one in grey levels
    (0..255), `*_compat` the Potts weights. `unary` is the energy of a label:
      "log"          -log max(p, min_probability): the usual one;
      "probability"  -p, the probability itself taken as a negative energy. That is small against the pairwise
                     weights, so it smooths very strongly; the public DSRG code does it while training;
      "labels"       from a label map: -log c for the given label, -log((1-c)/(K-1)) for the K-1 others, with
                     c = `label_confidence`.
    `backend` is what computes: "pydensecrf"; "torch", the same on a CPU or a GPU to 1e-3; or "auto", pydensecrf on a
    CPU where it is installed and torch elsewhere.
    """

    gaussian_sxy: float
    gaussian_compat: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_compat: float
    iterations: int = 10
    unary: str = "log"
    min_probability: float = 1e-5
    label_confidence: float = 0.7
    backend: str = "auto"

    def __post_init__(self) -> None:
        for name in ("gaussian_sxy", "bilateral_sxy", "bilateral_srgb"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"dense CRF: {name} is {getattr(self, name)}, expected a number above 0")
        if self.gaussian_compat < 0 or self.bilateral_compat < 0:
            raise ConfigError(
                f"dense CRF: the compat weights are {self.gaussian_compat} and {self.bilateral_compat}, "
                "expected numbers of at least 0"
            )
        if self.iterations < 0:
            raise ConfigError(f"dense CRF: iterations is {self.iterations}, expected at least 0")
        if self.unary not in UNARIES:
            raise ConfigError(f"dense CRF: unary is {self.unary!r}, expected one of {', '.join(UNARIES)}")
        if self.backend not in BACKENDS:
            raise ConfigError(f"dense CRF: backend is {self.backend!r}, expected one of {', '.join(BACKENDS)}")
        if not 0 < self.min_probability < 1 or not 0 < self.label_confidence < 1:
            raise ConfigError("dense CRF: min_probability and label_confidence must lie between 0 and 1")

    def at_scale(self, scale: float) -> CrfParameters:
        """The same CRF on an image reduced by `scale` (12: a twelfth as wide); SEC's `scale_factor`.

        The spatial widths shrink with the image, the colour width stays.
        """
        return dataclasses.replace(
            self, gaussian_sxy=self.gaussian_sxy / scale, bilateral_sxy=self.bilateral_sxy / scale
        )


_SEC = CrfParameters(gaussian_sxy=3, gaussian_compat=3, bilateral_sxy=80, bilateral_srgb=13, bilateral_compat=10)
_IRN = CrfParameters(
    gaussian_sxy=3,
    gaussian_compat=3,
    bilateral_sxy=50,
    bilateral_srgb=5,
    bilateral_compat=10,
    unary="labels",
    label_confidence=0.7,
)

PARAMETERS: dict[str, CrfParameters] = {
    "dsrg-test": _SEC,
    "dsrg-train": _SEC.at_scale(12),
    "deeplab-v1": CrfParameters(3, 3, 49, 5, 4),
    "deeplab-v2": CrfParameters(1, 3, 67, 3, 4),
    "psa": _SEC,
    "seam": dataclasses.replace(_SEC, iterations=1),
    "icd": dataclasses.replace(_SEC, unary="labels", label_confidence=0.5),
    "irn": _IRN,
    "puzzle": dataclasses.replace(_IRN, iterations=1),
    "wsgcn": CrfParameters(3, 3, 50, 5, 3),
}
"""Published parameter sets by name, as in each project's public code; 10 iterations unless given.

name        gaussian    bilateral
            sxy/compat  sxy/srgb/compat  source
dsrg-test   3/3         80/13/10         SEC (ECCV 2016) and DSRG (CVPR 2018) at test time, full size, -log p
dsrg-train  0.25/3      6.67/13/10       the same at 41x41 (scale factor 12); DSRG's own: unary="probability"
deeplab-v1  3/3         49/5/4           the scripts of the DeepLab-LargeFOV release
deeplab-v2  1/3         67/3/4           DeepLabv2 ResNet101; also deeplab-pytorch, DRS, EPS, CONTA
psa         3/3         80/13/10         AffinityNet (CVPR 2018), -log of the scores
seam        3/3         80/13/10         SEAM (CVPR 2020), 1 iteration
icd         3/3         80/13/10         ICD (CVPR 2020), from a label map with confidence 0.5
irn         3/3         50/5/10          IRNet (CVPR 2019), from a label map with confidence 0.7
puzzle      3/3         50/5/10          Puzzle-CAM (ICIP 2021), as irn with 1 iteration
wsgcn       3/3         50/5/3           WSGCN-I (ICME 2021)
"""


def named_parameters(name: str) -> CrfParameters:
    """The published set called `name`; ConfigError lists the known names."""
    if name not in PARAMETERS:
        raise ConfigError(f"no dense-CRF parameter set is called {name!r}", hint="known sets: " + ", ".join(PARAMETERS))
    return PARAMETERS[name]
