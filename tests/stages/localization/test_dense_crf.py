"""The dense CRF against pydensecrf itself, a plain-loop mean field, and a case worked by hand."""

from __future__ import annotations

import builtins
import dataclasses
import sys

import numpy as np
import pytest

from artifacts.errors import ConfigError, DataError
from stages.localization.config import CrfConfig
from stages.localization.crf_parameters import PARAMETERS, CrfParameters, named_parameters
from stages.localization.dense_crf import crf_batch, crf_from_labels, crf_of_each, crf_pool, crf_probabilities


def drawn_image(height: int = 40, width: int = 56, seed: int = 0) -> np.ndarray:
    """A bright disc on a dark ground, with noise."""
    rows, columns = np.mgrid[:height, :width]
    disc = (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (height / 3) ** 2
    noise = np.random.default_rng(seed).normal(0, 6, (height, width, 3))
    return np.clip(np.where(disc[:, :, None], [200, 120, 60], [40, 70, 90]) + noise, 0, 255).astype(np.uint8)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(0))
    return (exponentials / exponentials.sum(0)).astype(np.float32)


def network_like(num_classes: int, winners: tuple[int, ...], height: int, width: int, seed: int = 0) -> np.ndarray:
    """Probabilities as a trained network gives them: smooth, sure inside the objects, unsure at coarse borders.

    Background everywhere, one blob for each further winner; all other classes stay far below.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    logits = np.repeat(rng.normal(-8, 1, num_classes)[:, None, None], height, 1).repeat(width, 2)
    logits += 0.4 * np.sin(rows / 9 + rng.random(num_classes)[:, None, None] * 6) * np.cos(columns / 7)
    logits[0] = 1.5
    for number, winner in enumerate(w for w in winners if w):
        distance = np.hypot(rows - height * (0.35 + 0.3 * number), columns - width * (0.3 + 0.4 * number))
        logits[winner] = 8 - distance * (18 / min(height, width))
    return softmax(logits)


def by_hand_of_pydensecrf(image: np.ndarray, probabilities: np.ndarray, p: CrfParameters) -> np.ndarray:
    import pydensecrf.densecrf as densecrf
    from pydensecrf.utils import unary_from_softmax

    labels, height, width = probabilities.shape
    field = densecrf.DenseCRF2D(width, height, labels)
    field.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probabilities, clip=p.min_probability)))
    field.addPairwiseGaussian(sxy=p.gaussian_sxy, compat=p.gaussian_compat)
    field.addPairwiseBilateral(
        sxy=p.bilateral_sxy, srgb=p.bilateral_srgb, rgbim=np.ascontiguousarray(image), compat=p.bilateral_compat
    )
    return np.array(field.inference(p.iterations)).reshape(probabilities.shape)


@pytest.mark.parametrize("name", [name for name, p in PARAMETERS.items() if p.unary == "log"])
def test_equals_pydensecrf_called_with_the_same_labels(name: str) -> None:
    image = drawn_image()
    probabilities = network_like(21, (0, 8), *image.shape[:2])[[0, 3, 8]]
    # unary_from_softmax clips and does not renormalise, as we do
    expected = by_hand_of_pydensecrf(image, probabilities, PARAMETERS[name])
    np.testing.assert_array_equal(crf_probabilities(image, probabilities, PARAMETERS[name]), expected)


def exact_mean_field(image: np.ndarray, unary: np.ndarray, p: CrfParameters) -> np.ndarray:
    """Mean field with the full kernel matrices, as the equations stand in the paper: O(pixels^2)."""
    labels, height, width = unary.shape
    rows, columns = np.mgrid[:height, :width]
    position = np.stack([columns.ravel(), rows.ravel()], 1).astype(np.float64)
    colour = image.reshape(-1, 3).astype(np.float64)

    def kernel(features: np.ndarray) -> np.ndarray:
        distances = ((features[:, None] - features[None]) ** 2).sum(2)
        matrix = np.exp(-0.5 * distances)
        norm = 1 / np.sqrt(matrix.sum(1) + 1e-20)
        return norm[:, None] * matrix * norm[None]

    smooth = kernel(position / p.gaussian_sxy)
    appearance = kernel(np.concatenate([position / p.bilateral_sxy, colour / p.bilateral_srgb], 1))
    flat = unary.reshape(labels, -1)
    q = softmax(-flat)
    for _ in range(p.iterations):
        q = softmax(-flat + p.gaussian_compat * q @ smooth + p.bilateral_compat * q @ appearance)
    return q.reshape(unary.shape)


def test_is_near_the_exact_mean_field_of_the_equations() -> None:
    # The permutohedral lattice only approximates the Gaussian filter; the labels must agree all the same.
    image = drawn_image(20, 24)
    probabilities = network_like(4, (0, 2), 20, 24)
    parameters = CrfParameters(2, 3, 12, 20, 4, iterations=5)
    expected = exact_mean_field(image, -np.log(np.maximum(probabilities, 1e-5)), parameters)
    found = crf_probabilities(image, probabilities, parameters)
    assert (found.argmax(0) == expected.argmax(0)).mean() > 0.98
    assert np.abs(found - expected).mean() < 0.03


def test_without_pairwise_weights_the_result_is_the_unary() -> None:
    image, probabilities = drawn_image(), network_like(3, (0, 1), 40, 56)
    found = crf_probabilities(image, probabilities, CrfParameters(3, 0, 80, 13, 0))
    np.testing.assert_allclose(found, np.maximum(probabilities, 1e-5), rtol=1e-4)


def test_two_pixels_and_two_labels_worked_by_hand() -> None:
    # Very wide position kernel: every normalised weight is 1/2 (k = 1, D = 2), so K Q is the mean of Q over both
    # pixels. Q0 = [[.8, .6], [.2, .4]]: mean .7/.3. One iteration with weight 3 multiplies p by exp(3 * mean).
    probabilities = np.array([[[0.8, 0.6]], [[0.2, 0.4]]], np.float32)
    found = crf_probabilities(np.zeros((1, 2, 3), np.uint8), probabilities, CrfParameters(1e4, 3, 80, 13, 0, 1))
    boost = np.exp(3 * np.array([0.7, 0.3]))[:, None, None]
    expected = probabilities * boost / (probabilities * boost).sum(0)
    np.testing.assert_allclose(found, expected, rtol=2e-2)


def test_present_labels_agree_with_all_labels_on_network_like_scores() -> None:
    agreements = []
    for seed in range(4):
        image = drawn_image(80, 96, seed)
        probabilities = network_like(21, (0, 5, 13), 80, 96, seed)
        everything = crf_probabilities(image, probabilities, PARAMETERS["deeplab-v2"]).argmax(0)
        classes = np.array([0, 5, 13])
        few = classes[crf_probabilities(image, probabilities[classes], PARAMETERS["deeplab-v2"]).argmax(0)]
        agreements.append((everything == few).mean())
    assert np.mean(agreements) >= 0.999


def test_follows_the_edges_of_the_image() -> None:
    image = drawn_image(60, 60)
    disc = image[:, :, 0] > 120
    sure = np.where(np.roll(disc, 4, axis=1), 0.75, 0.25)  # a mask that is 4 pixels off
    refined = crf_probabilities(image, np.stack([1 - sure, sure]), PARAMETERS["dsrg-test"]).argmax(0)
    assert (refined == disc).mean() > 0.985 > (np.roll(disc, 4, axis=1) == disc).mean()


def test_from_labels_equals_pydensecrf() -> None:
    import pydensecrf.densecrf as densecrf
    from pydensecrf.utils import unary_from_labels

    image, parameters = drawn_image(), PARAMETERS["irn"]
    labels = network_like(3, (0, 2), 40, 56).argmax(0)
    field = densecrf.DenseCRF2D(56, 40, 3)
    field.setUnaryEnergy(unary_from_labels(labels, 3, gt_prob=0.7, zero_unsure=False))
    field.addPairwiseGaussian(sxy=3, compat=3)
    field.addPairwiseBilateral(sxy=50, srgb=5, rgbim=image, compat=10)
    expected = np.array(field.inference(10)).reshape(3, 40, 56)
    np.testing.assert_allclose(crf_from_labels(image, labels, 3, parameters), expected, atol=1e-6)


def test_a_set_that_starts_from_labels_takes_the_argmax_of_probabilities() -> None:
    image, probabilities = drawn_image(), network_like(3, (0, 2), 40, 56)
    for name in ("irn", "icd", "puzzle"):
        expected = crf_from_labels(image, probabilities.argmax(0), 3, PARAMETERS[name])
        np.testing.assert_array_equal(crf_probabilities(image, probabilities, PARAMETERS[name]), expected)


def test_from_labels_unknown_pixels_prefer_no_label() -> None:
    labels = np.full((6, 6), 255)
    labels[0, 0] = 1
    no_pairs = CrfParameters(3, 0, 80, 13, 0, unary="labels")
    found = crf_from_labels(np.zeros((6, 6, 3), np.uint8), labels, 4, no_pairs)
    np.testing.assert_allclose(found[:, 3, 3], 0.25, rtol=1e-5)
    np.testing.assert_allclose(found[:, 0, 0], [0.1, 0.7, 0.1, 0.1], rtol=1e-5)
    with pytest.raises(DataError, match=r"holds 4, expected 0\.\.3"):
        crf_from_labels(np.zeros((6, 6, 3), np.uint8), np.full((6, 6), 4), 4, no_pairs)


def test_probability_unary_is_the_literal_dsrg_one() -> None:
    import pydensecrf.densecrf as densecrf

    image, probabilities = drawn_image(41, 41), network_like(21, (0, 7), 41, 41)
    parameters = dataclasses.replace(PARAMETERS["dsrg-train"], unary="probability")
    field = densecrf.DenseCRF2D(41, 41, 21)
    field.setUnaryEnergy(np.ascontiguousarray(-probabilities.reshape(21, -1)))
    field.addPairwiseGaussian(sxy=3 / 12, compat=3)
    field.addPairwiseBilateral(sxy=80 / 12, srgb=13, rgbim=image, compat=10)
    expected = np.array(field.inference(10)).reshape(21, 41, 41)
    np.testing.assert_array_equal(crf_probabilities(image, probabilities, parameters), expected)


def test_batch_equals_single_images_and_the_pool_changes_nothing() -> None:
    images = np.stack([drawn_image(41, 41, seed) for seed in range(3)])
    probabilities = np.stack([network_like(6, (0, 2 + seed), 41, 41, seed) for seed in range(3)])
    present = [(0, 2), (0, 3, 5), (4, 0)]
    parameters = PARAMETERS["dsrg-train"]
    found = crf_batch(images, probabilities, present, parameters)
    for b, classes in enumerate(present):
        expected = np.zeros((6, 41, 41), np.float32)
        expected[sorted(classes)] = crf_probabilities(images[b], probabilities[b][sorted(classes)], parameters)
        np.testing.assert_array_equal(found[b], expected)
    with crf_pool(2) as pool:
        np.testing.assert_array_equal(crf_batch(images, probabilities, present, parameters, pool), found)
    everything = crf_batch(images, probabilities, None, parameters)
    np.testing.assert_array_equal(everything[1], crf_probabilities(images[1], probabilities[1], parameters))


@pytest.mark.parametrize("name", ["psa", "irn"])
def test_crfs_of_one_image_share_its_kernels_and_differ_in_nothing(name: str) -> None:
    """To the bit, and in any order: nothing of the first stays behind in the second."""
    image = drawn_image()
    several = [network_like(3, winners, 40, 56) for winners in ((0, 1), (2, 1))]
    alone = [crf_probabilities(image, probabilities, PARAMETERS[name]) for probabilities in several]
    together = crf_of_each(image, [*several, several[0]], PARAMETERS[name])
    assert not np.array_equal(alone[0], alone[1])
    for found, expected in zip(together, [*alone, alone[0]], strict=True):
        np.testing.assert_array_equal(found, expected)


def test_one_label_has_nothing_to_decide() -> None:
    found = crf_probabilities(drawn_image(8, 9), np.full((1, 8, 9), 0.3), PARAMETERS["dsrg-test"])
    np.testing.assert_array_equal(found, np.ones((1, 8, 9)))


def test_training_set_is_the_test_set_at_a_twelfth() -> None:
    # SEC and DSRG: 80/12 = 6.67 and 3/12 = 0.25 pixels at 41x41, colour and weights unchanged
    train, test = named_parameters("dsrg-train"), named_parameters("dsrg-test")
    assert (round(train.bilateral_sxy, 2), train.gaussian_sxy) == (6.67, 0.25)
    assert dataclasses.replace(train, bilateral_sxy=80, gaussian_sxy=3) == test


def test_config_replaces_single_values() -> None:
    config = CrfConfig(parameters="deeplab-v2", iterations=5, bilateral_sxy=30)
    assert config.resolve() == dataclasses.replace(PARAMETERS["deeplab-v2"], iterations=5, bilateral_sxy=30)
    assert {name: CrfConfig(parameters=name).resolve() for name in PARAMETERS} == PARAMETERS
    assert CrfConfig(parameters="dsrg-test", scale=12).resolve() == PARAMETERS["dsrg-train"]
    with pytest.raises(ValueError, match="known: dsrg-test"):
        CrfConfig(parameters="dsrg")


@pytest.mark.parametrize(
    ("image", "probabilities", "message"),
    [
        (np.zeros((4, 5, 3), np.float32), np.ones((2, 4, 5)), "expected uint8"),
        (np.zeros((4, 5), np.uint8), np.ones((2, 4, 5)), "expected uint8"),
        (np.zeros((4, 6, 3), np.uint8), np.ones((2, 4, 5)), r"\(4, 6\) rows and columns"),
        (np.zeros((4, 5, 3), np.uint8), np.full((2, 4, 5), np.nan), "not finite"),
    ],
)
def test_bad_input_is_named(image: np.ndarray, probabilities: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        crf_probabilities(image, probabilities, PARAMETERS["dsrg-test"])


def test_bad_parameters_are_named() -> None:
    with pytest.raises(ConfigError, match="no dense-CRF parameter set"):
        named_parameters("unknown")
    with pytest.raises(ConfigError, match="bilateral_sxy is 0"):
        CrfParameters(3, 3, 0, 13, 10)
    with pytest.raises(DataError, match="3 images, 2 score maps"):
        crf_batch(np.zeros((3, 4, 5, 3), np.uint8), np.ones((2, 2, 4, 5)), None, PARAMETERS["dsrg-train"])


def test_a_missing_pydensecrf_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real_import = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("pydensecrf"):
            raise ImportError("No module named 'pydensecrf'")
        return real_import(name, *args, **kwargs)  # type: ignore[arg-type]

    for module in [m for m in sys.modules if m.startswith("pydensecrf")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(builtins, "__import__", without)
    parameters = dataclasses.replace(PARAMETERS["dsrg-test"], backend="pydensecrf")
    with pytest.raises(ConfigError) as caught:
        crf_probabilities(drawn_image(), network_like(2, (0, 1), 40, 56), parameters)
    assert "pip install pydensecrf2" in str(caught.value)
