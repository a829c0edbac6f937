"""The chain from images to masks against plain loops, as the public codes of IRNet and DeepLab in PyTorch have them.

One image after the other, one thread: read, compute, write one file an image. Both sides begin with files and end with
files.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from artifacts import checkpoint
from artifacts.dataset import Dataset
from artifacts.masks import IGNORE, encode_mask, read_mask
from artifacts.score_maps import ScoreMap, ScoreMaps, ScoreMapWriter
from artifacts.store import Artifact, Workspace, Writer
from stages.data.config import VOC_CLASS_NAMES
from stages.engine.known import Known
from stages.localization.boundary_labels import boundary_labels
from stages.localization.config import CrfConfig
from stages.networks import Classifier, build_classifier, load_network, normalise
from stages.networks.config import ClassifierConfig
from tests.benchmarks import inputs
from tests.benchmarks.crf import one_thread
from tests.benchmarks.localization import CAM_SCALES, settled
from tests.benchmarks.measure import CPU, Result, in_turn

# the network, images, their size, repeats
CAMS = {
    "tiny": ("tiny", 3, (48, 64), 1),
    "quick": ("mobilenet_v2", 8, (120, 160), 2),
    "full": ("mobilenet_v2", 16, (180, 240), 3),
}
# images, their size, repeats
CRFS = {"tiny": (2, (48, 64), 1), "quick": (3, inputs.VOC_SIZE, 2), "full": (8, inputs.VOC_SIZE, 3)}
FOREGROUND, BACKGROUND = 0.3, 0.05  # IRNet's constant scores of the background


def cams(scale: str, folder: Path) -> Result:
    """Images to class-activation maps of four scales and mirrors on disk."""
    preset, count, size, repeats = CAMS[scale]
    workspace = Workspace(folder / "runs")
    data, ids = inputs.images(workspace, count, size)
    dataset = Dataset(data)
    classifier = _classifier(workspace, preset, dataset)

    def plain() -> None:
        network = load_network(classifier)
        for image_id in ids:
            maps, whole = _plain_maps(network, Image.open(dataset.image_path(image_id)).convert("RGB"))
            classes = np.array(dataset.tags(image_id))
            kept = {"keys": classes, "cam": maps[classes - 1].numpy(), "high_res": whole[classes - 1].numpy()}
            np.save(folder / f"{image_id}.npy", kept, allow_pickle=True)

    def ours() -> Artifact:
        config = {"splits": ["val"], "labels": {"mode": "dense"}, "cam": {"scales": list(CAM_SCALES)}}
        given = {"data": "data", "classifier": "classifier"}
        return inputs.stage(workspace, "seeds", "seeds", config, given, force=True, device="cpu", workers=1)

    with one_thread():
        baseline, own, _, made = in_turn(plain, ours, repeats, CPU, each=count)
    found = ScoreMaps(made)
    differences = [
        np.abs(np.load(folder / f"{image_id}.npy", allow_pickle=True).item()["cam"] - found[image_id].scores).mean()
        for image_id in ids
        if dataset.tags(image_id)
    ]
    bytes_of = [
        sum(file.stat().st_size for file in files) / count
        for files in (folder.glob("*.npy"), (made.path / "scores").glob("*"))
    ]
    return Result(
        "peers-cams",
        "the stage seeds, an image; baseline: a loop as IRNet's code has it, an .npy an image",
        f"{count} drawn images of {size[0]}x{size[1]}, {preset}, 4 scales and mirrors, one thread",
        baseline,
        own,
        f"the mean difference of the maps, {np.mean(differences):.3f}, at most 0.2 (other resampling)",
        float(np.mean(differences)) <= 0.2,
        target_ratio=1.0,
        figures={"baseline_bytes_an_image": bytes_of[0], "bytes_an_image": bytes_of[1]},
    )


@torch.inference_mode()
def _plain_maps(network: Classifier, image: Image.Image) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, h, w) of stride 4 and (K, H, W), each divided by its maximum."""
    size = (image.height, image.width)
    maps = torch.zeros(network.num_foreground, -(-size[0] // 4), -(-size[1] // 4))
    whole = torch.zeros(network.num_foreground, *size)
    for scale in CAM_SCALES:
        seen = image.resize((round(size[1] * scale), round(size[0] * scale)), Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(seen)).permute(2, 0, 1)[None].contiguous()
        both = network.activation_maps(normalise(torch.cat([pixels, pixels.flip(3)])).contiguous()).relu()
        joint = both[:1] + both[1:].flip(3)
        maps += F.interpolate(joint, maps.shape[1:], mode="bilinear", align_corners=False)[0]
        whole += F.interpolate(joint, size, mode="bilinear", align_corners=False)[0]
    return maps / (maps.amax((1, 2), keepdim=True) + 1e-5), whole / (whole.amax((1, 2), keepdim=True) + 1e-5)


def _classifier(workspace: Workspace, preset: str, dataset: Dataset) -> Artifact:
    given = {} if preset == "tiny" else {"weights": "none", "freeze_batch_norm": False}
    config = ClassifierConfig.model_validate({"preset": preset} | given)
    network = settled(build_classifier(config, inputs.NUM_CLASSES - 1, seed=0), dataset)

    def fill(writer: Writer) -> None:
        with writer.item("weights.pt") as temporary:
            checkpoint.save(temporary, network.state_dict())
        writer.write_json("network.json", network.spec(VOC_CLASS_NAMES))

    return inputs.hand_made(workspace, "classifier", "classifier", fill)


def crf_pair(scale: str, folder: Path) -> Result:
    """Images and their maps to the labels that IRNet's boundaries learn from: two CRFs an image."""
    from pydensecrf import densecrf, utils

    count, size, repeats = CRFS[scale]
    data, ids = inputs.images(Workspace(folder / "runs"), count, size)
    dataset = Dataset(data)
    maps = {image_id: _maps(dataset, image_id, number) for number, image_id in enumerate(ids)}

    def one(image: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
        field = densecrf.DenseCRF2D(image.shape[1], image.shape[0], num_labels)
        field.setUnaryEnergy(utils.unary_from_labels(labels, num_labels, gt_prob=0.7, zero_unsure=False))
        field.addPairwiseGaussian(sxy=3, compat=3)
        field.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.ascontiguousarray(image), compat=10)
        marginals = np.array(field.inference(10)).reshape(num_labels, *image.shape[:2])
        found: np.ndarray = marginals.argmax(0)
        return found

    def plain() -> dict[str, np.ndarray]:
        found = {}
        for image_id in ids:
            image = np.array(Image.open(dataset.image_path(image_id)).convert("RGB"))
            low = torch.from_numpy(maps[image_id].scores)[None]
            high = F.interpolate(low, (low.shape[2] * 4, low.shape[3] * 4), mode="bilinear", align_corners=False)
            whole = high[0, :, : size[0], : size[1]].numpy()
            keys = np.concatenate([[0], maps[image_id].classes])
            sure, any_class = (
                keys[one(image, np.pad(whole, ((1, 0), (0, 0), (0, 0)), constant_values=c).argmax(0), len(keys))]
                for c in (FOREGROUND, BACKGROUND)
            )
            labels = sure.copy()
            labels[sure == 0] = IGNORE
            labels[(sure == 0) & (any_class == 0)] = 0
            found[image_id] = labels.astype(np.uint8)
            (folder / f"{image_id}.png").write_bytes(encode_mask(found[image_id]))
        return found

    def ours() -> dict[str, np.ndarray]:
        found, settings = {}, CrfConfig(parameters="irn")
        for image_id in ids:
            known = Known(image_id, dataset.image(image_id), dataset.tags(image_id), maps[image_id])
            found[image_id] = boundary_labels(known, FOREGROUND, BACKGROUND, settings)
            (folder / f"{image_id}.png").write_bytes(encode_mask(found[image_id]))
        return found

    with one_thread():
        baseline, own, expected, found = in_turn(plain, ours, repeats, CPU, each=count)
    alike = float(np.mean([(expected[image_id] == found[image_id]).mean() for image_id in ids]))
    return Result(
        "peers-crf-pair",
        "the labels of IRNet's boundaries, an image; baseline: a loop over pydensecrf as IRNet's code has it",
        f"{count} drawn images of {size[0]}x{size[1]}, maps of the labels each has, one thread",
        baseline,
        own,
        f"{100 * alike:.2f} % of the pixels (wanted: 98, of other resampling)",
        alike >= 0.98,
        target_ratio=1.0,
    )


def _maps(dataset: Dataset, image_id: str, number: int) -> ScoreMap:
    """Class-activation maps of the image's labels, drawn: their highest value is 1."""
    classes = np.array(dataset.tags(image_id), np.uint8)
    scores = inputs.class_probabilities(dataset.mask(image_id), seed=number)[classes]
    scores /= scores.max(axis=(1, 2), keepdims=True)
    return ScoreMap(image_id, scores, classes, dataset.size(image_id), 4, "cam")


def crf(scale: str, folder: Path) -> Result:
    """Probabilities of all classes on disk to masks, by DeepLab's CRF."""
    from pydensecrf import densecrf, utils

    count, size, repeats = CRFS[scale]
    workspace = Workspace(folder / "runs")
    data, ids = inputs.images(workspace, count, size)
    dataset = Dataset(data)
    probabilities = {i: inputs.class_probabilities(dataset.mask(i), seed=number) for number, i in enumerate(ids)}

    def fill(writer: Writer) -> None:
        with ScoreMapWriter(writer, class_names=VOC_CLASS_NAMES, meaning="probability") as maps:
            maps.plan(ids)
            for image_id, scores in probabilities.items():
                np.save(folder / f"{image_id}.npy", np.log(scores))
                maps.add(image_id, scores, range(inputs.NUM_CLASSES), size=size, stride=4)
        writer.write_json("classes.json", {"class_names": list(VOC_CLASS_NAMES), "ids": sorted(ids), "splits": ["val"]})

    inputs.hand_made(workspace, "predictions", "predictions", fill)

    def plain() -> dict[str, np.ndarray]:
        found = {}
        for image_id in ids:
            image = np.array(Image.open(dataset.image_path(image_id)).convert("RGB"))
            logits = torch.from_numpy(np.load(folder / f"{image_id}.npy"))[None]
            scores = F.interpolate(logits, size, mode="bilinear", align_corners=False).softmax(1)[0].numpy()
            field = densecrf.DenseCRF2D(size[1], size[0], inputs.NUM_CLASSES)
            field.setUnaryEnergy(np.ascontiguousarray(utils.unary_from_softmax(scores)))
            field.addPairwiseGaussian(sxy=1, compat=3)
            field.addPairwiseBilateral(sxy=67, srgb=3, rgbim=image, compat=4)
            found[image_id] = np.array(field.inference(10)).argmax(0).reshape(size).astype(np.uint8)
            (folder / f"{image_id}.png").write_bytes(encode_mask(found[image_id]))
        return found

    def ours() -> dict[str, np.ndarray]:
        given = {"data": "data", "predictions": "predictions"}
        config = {"parameters": "deeplab-v2"}
        made = inputs.stage(workspace, "crf", "refined", config, given, force=True, device="cpu", workers=1)
        return {image_id: read_mask(made.file(f"masks/{image_id}.png")) for image_id in ids}

    with one_thread():
        baseline, own, expected, found = in_turn(plain, ours, repeats, CPU, each=count)
    alike = float(np.mean([(expected[image_id] == found[image_id]).mean() for image_id in ids]))
    return Result(
        "peers-crf",
        "the stage crf, labels present, an image; baseline: a loop over pydensecrf with all classes, as DeepLab's has",
        f"{count} drawn images of {size[0]}x{size[1]}, 21 classes, one thread",
        baseline,
        own,
        f"{100 * alike:.2f} % of the pixels (wanted: 98, of other resampling)",
        alike >= 0.98,
        target_ratio=1.0,
    )
