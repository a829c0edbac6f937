"""The mean field by torch against pydensecrf, full kernel matrices, and itself: batches, orders, threads."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from artifacts.errors import ConfigError
from stages.localization.crf_batches import gpu_for
from stages.localization.crf_parameters import PARAMETERS, CrfParameters
from stages.localization.dense_crf import (
    backend_of,
    crf_batch,
    crf_of_each,
    crf_probabilities,
    crf_together,
    energies,
)
from stages.localization.mean_field import mean_fields
from stages.localization.permutohedral import WeightedSums, divided, normalised_kernel
from tests.stages.localization.test_dense_crf import drawn_image, exact_mean_field, network_like


def by_torch(parameters: CrfParameters) -> CrfParameters:
    return dataclasses.replace(parameters, backend="torch")


def assert_near_pydensecrf(image: np.ndarray, probabilities: np.ndarray, parameters: CrfParameters) -> None:
    expected = crf_probabilities(image, probabilities, dataclasses.replace(parameters, backend="pydensecrf"))
    found = crf_probabilities(image, probabilities, by_torch(parameters))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.sum(0), 1, atol=1e-5)
    assert np.abs(found - expected).max() < 1e-3
    assert (found.argmax(0) == expected.argmax(0)).mean() >= 0.999


@pytest.mark.parametrize("name", PARAMETERS)
def test_equals_pydensecrf_for_every_published_set(name: str) -> None:
    assert_near_pydensecrf(drawn_image(), network_like(5, (0, 2, 4), 40, 56), PARAMETERS[name])


@pytest.mark.parametrize(("height", "width", "labels"), [(1, 1, 2), (1, 9, 2), (13, 1, 3), (31, 17, 21)])
def test_equals_pydensecrf_on_noise_of_any_size(height: int, width: int, labels: int) -> None:
    rng = np.random.default_rng(labels)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    scores = rng.random((labels, height, width)) ** 4  # equal labels would turn rounding into a choice
    for parameters in (PARAMETERS["dsrg-test"], CrfParameters(2, 3, 9, 40, 4, iterations=3)):
        assert_near_pydensecrf(image, scores / scores.sum(0), parameters)


def test_keys_that_need_more_than_32_bits() -> None:
    assert_near_pydensecrf(drawn_image(), network_like(3, (0, 2), 40, 56), CrfParameters(3, 3, 0.05, 0.5, 10))


@pytest.mark.parametrize("width", [1e-3, 1e-6])
def test_widths_too_small_for_the_lattice_are_named(width: float) -> None:
    parameters = by_torch(CrfParameters(3, 3, width, width, 10))
    with pytest.raises(ConfigError, match="standard deviations are too small"):
        crf_probabilities(drawn_image(), network_like(3, (0, 2), 40, 56), parameters)


@pytest.mark.real
@pytest.mark.parametrize("name", ["irn", "dsrg-test", "deeplab-v2"])
def test_equals_pydensecrf_on_real_images(name: str, real_data: Path) -> None:
    folder = real_data / "data" / "voc-animals"
    files = sorted((folder / "SegmentationClass").glob("*.png"))[:6]
    for number, file in enumerate(files):
        mask = np.asarray(Image.open(file))
        image = np.array(Image.open(folder / "JPEGImages" / f"{file.stem}.jpg").convert("RGB"))
        truth = np.stack([mask == label for label in np.unique(mask[mask < 255])]).astype(np.float64)
        scores = 0.3 + truth + 0.6 * np.random.default_rng(number).random(truth.shape)
        assert_near_pydensecrf(image, scores / scores.sum(0), PARAMETERS[name])


def test_is_near_the_exact_mean_field_of_the_equations() -> None:
    image, probabilities = drawn_image(20, 24), network_like(4, (0, 2), 20, 24)
    parameters = by_torch(CrfParameters(2, 3, 12, 20, 4, iterations=5))
    expected = exact_mean_field(image, -np.log(np.maximum(probabilities, 1e-5)), parameters)
    found = crf_probabilities(image, probabilities, parameters)
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.98
    assert np.abs(found - expected).mean() < 0.03


def test_a_kernel_is_near_the_normalised_gaussian() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(0, 1.5, (2, 300))
    matrix = np.exp(-0.5 * ((features[:, :, None] - features[:, None]) ** 2).sum(0))
    norm = 1 / np.sqrt(matrix.sum(1))
    values = rng.random((300, 4))
    expected = 2 * norm[:, None] * (matrix @ (norm[:, None] * values))
    kernel = normalised_kernel(torch.from_numpy(features).float(), weight=2)
    found = kernel(torch.from_numpy(values).float()).numpy()
    assert np.abs(found - expected).mean() < 0.05
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98


def test_groups_of_points_do_not_meet() -> None:
    features, values = torch.rand(3, 50) * 2, torch.rand(50, 2)
    groups = torch.tensor([0, 1]).repeat_interleave(25)
    apart = normalised_kernel(features, groups=groups)(values)
    for group in (0, 1):
        alone = normalised_kernel(features[:, groups == group])(values[groups == group])
        torch.testing.assert_close(apart[groups == group], alone)


def test_long_sums_may_be_divided() -> None:
    starts = torch.tensor([0, 3, 3, 203, 267, 268, 600, 600], dtype=torch.int32)  # with empty sums, 64 and 65 rows
    rows = torch.randint(0, 40, (600,), dtype=torch.int32)
    sums = WeightedSums(rows, torch.rand(600), starts)
    values = torch.rand(40, 3)
    expected = [
        (sums.weights[a:b, None] * values[rows[a:b].long()]).sum(0)
        for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)
    ]
    first, second = divided(sums)
    torch.testing.assert_close(sums(values), torch.stack(expected))
    torch.testing.assert_close(second(first(values)), torch.stack(expected))
    assert first.starts.diff().max() == 64


def test_a_batch_of_any_sizes_and_labels_equals_its_images() -> None:
    sizes, labels = [(40, 56), (31, 20), (40, 56)], [3, 5, 1]
    images = [drawn_image(*size, seed) for seed, size in enumerate(sizes)]
    scores = [network_like(k, (0, k - 1), *size) for k, size in zip(labels, sizes, strict=True)]
    for parameters in (by_torch(PARAMETERS["irn"]), by_torch(PARAMETERS["dsrg-test"])):
        unaries = [energies(image, own, parameters) for image, own in zip(images, scores, strict=True)]
        found = crf_together(images, unaries, parameters, "cpu")
        for image, own, marginals in zip(images, scores, found, strict=True):
            np.testing.assert_allclose(marginals, crf_probabilities(image, own, parameters), atol=1e-5)


@pytest.mark.parametrize("name", ["psa", "irn"])
def test_crfs_of_one_image_share_its_kernels(name: str) -> None:
    image, parameters = drawn_image(), by_torch(PARAMETERS[name])
    several = [network_like(3, winners, 40, 56) for winners in ((0, 1), (2, 1))]
    for found, own in zip(crf_of_each(image, several, parameters), several, strict=True):
        np.testing.assert_allclose(found, crf_probabilities(image, own, parameters), atol=1e-5)


def test_training_batches_equal_pydensecrf() -> None:
    images = np.stack([drawn_image(41, 41, seed) for seed in range(3)])
    probabilities = np.stack([network_like(6, (0, 2 + seed), 41, 41, seed) for seed in range(3)])
    present = [(0, 2), (0, 3, 5), (4, 0)]
    expected = crf_batch(images, probabilities, present, PARAMETERS["dsrg-train"])
    found = crf_batch(images, probabilities, present, by_torch(PARAMETERS["dsrg-train"]))
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert not found[0, [1, 3, 4, 5]].any()


def test_every_run_gives_the_same_bits_with_any_number_of_threads() -> None:
    image, parameters = drawn_image(60, 70), PARAMETERS["irn"]
    unary = energies(image, network_like(3, (0, 2), 60, 70), parameters)[None]
    before = torch.get_num_threads()
    try:
        runs = []
        for threads in (1, 2, 1):
            torch.set_num_threads(threads)
            runs.append(mean_fields([image], [unary], parameters)[0])
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        np.testing.assert_array_equal(run, runs[0])


def test_auto_takes_pydensecrf_on_a_cpu_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = PARAMETERS["irn"]
    assert backend_of(parameters) == "pydensecrf"
    assert backend_of(parameters, "cuda:0") == "torch"
    assert backend_of(dataclasses.replace(parameters, backend="pydensecrf"), "cuda") == "pydensecrf"
    image, probabilities = drawn_image(), network_like(3, (0, 2), 40, 56)
    expected = crf_probabilities(image, probabilities, by_torch(parameters))
    monkeypatch.setitem(sys.modules, "pydensecrf", None)  # as if it were not installed
    assert backend_of(parameters) == "torch"
    np.testing.assert_array_equal(crf_probabilities(image, probabilities, parameters), expected)


def test_a_gpu_is_for_torch_only() -> None:
    assert gpu_for(PARAMETERS["irn"], "cpu") is None
    assert gpu_for(dataclasses.replace(PARAMETERS["irn"], backend="pydensecrf"), "cuda") is None
    with pytest.raises(ConfigError, match="one of auto, pydensecrf, torch"):
        dataclasses.replace(PARAMETERS["irn"], backend="numba")
