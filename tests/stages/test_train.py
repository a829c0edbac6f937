"""stages/train.py: killed and continued to the same bits, what is exported, what is said of bad input."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
import random
import signal
import time
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from artifacts import checkpoint
from artifacts.errors import ArtifactError, ConfigError, DataError, SemisegError
from artifacts.masks import write_mask
from stages.engine.loop import CHECKPOINT
from stages.methods import METHODS
from stages.methods.dual_branch import DualBranch
from stages.methods.fixmatch import FixMatch
from stages.methods.parts.batch_shares import shares
from stages.methods.settings import trained_by
from stages.methods.training import snapshot_steps
from stages.networks import load_network, normalise
from stages.networks.loading import snapshots_of
from stages.pipeline.run_stage import run_stage
from stages.train import STAGE
from stages.train_classifier import STAGE as CLASSIFIER_STAGE
from tests.artifacts.small_artifacts import sign_again
from tests.stages.drawn_training import CASES, StopAt, StoppedError, publish_dataset
from tests.stages.forks import killed_when


def train(training, config, name, execution, inputs=None, **changes):
    """Runs the stage the config belongs to, with a checkpoint after each step."""
    stage = next(stage for stage in (STAGE, CLASSIFIER_STAGE) if isinstance(config, stage.config))
    given = training.inputs(config) | (inputs or {})
    execution = dataclasses.replace(execution, **{"checkpoint_every_s": 0.0} | changes)
    return run_stage(stage, config, training.space, name, given, execution).artifact


def stop_and_continue(training, config, name, execution, steps, **changes):
    """Stops the training after each of `steps` (the work since the last checkpoint is lost), then lets it end."""
    for step in steps:
        with pytest.raises(StoppedError):
            train(training, config, name, execution, progress=StopAt(step), **changes)
    return train(training, config, name, execution, progress=StopAt(None), **changes)


def log_lines(artifact):
    """metrics.jsonl without the times."""
    lines = [json.loads(line) for line in artifact.file("local/metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "time"} for line in lines]


# --- a killed training continues to the same bits ---


def exact_config(training, method, images=0):
    """The config of the tests that compare bits; log lines at steps 2 and 4, ends of epochs among the steps.

    images: steps that are drawn.
    """
    if method == "classifier":
        return training.classifier_config(iterations=4, log_images=images)
    adam = {"optimizer": {"name": "adam", "lr": 1e-3}} if method in ("dsrg", "cps", "mean-teacher") else {}
    return training.config(method, seed=3, iterations=4, log_images=images, **adam)


@pytest.fixture(scope="module")
def whole(training):
    """Artifacts of trainings that nobody stopped and that kept no step, by method; every step of them is drawn."""
    made = {}

    def of(method, execution):
        if method not in made:
            config = exact_config(training, method, images=4)
            made[method] = train(training, config, f"whole-{method}", execution, checkpoint_every_s=1e9)
        return made[method]

    return of


@pytest.mark.parametrize("method", CASES)
def test_a_stopped_training_ends_like_one_that_was_not(method, training, execution, whole):
    """To the bit, though of one all steps are drawn and of the other none."""
    config = exact_config(training, method)
    cut = stop_and_continue(training, config, f"cut-{method}", execution, steps=(2, 3))
    assert cut.manifest.content == whole(method, execution).manifest.content
    assert cut.manifest.resumed == 2
    assert log_lines(cut) == log_lines(whole(method, execution))
    assert [line["step"] for line in log_lines(cut) if "lr" in line] == [2, 4]
    assert not (cut.path / ".scratch").exists()


@pytest.mark.parametrize("method", ["fixmatch-teacher", "puzzle-cam"])
def test_a_stopped_training_on_a_network_of_timm_ends_like_one_that_was_not(method, training, execution):
    pytest.importorskip("timm")
    network = {"backbone": "timm:mobilenetv3_small_050", "freeze_batch_norm": False, "dropout": 0.3}
    config = training.config(method, network=network, iterations=4, crop_size=32)
    whole = train(training, config, f"timm-whole-{method}", execution)
    cut = stop_and_continue(training, config, f"timm-cut-{method}", execution, steps=(3,))
    assert cut.manifest.content == whole.manifest.content
    assert load_network(cut).config.backbone == "timm:mobilenetv3_small_050"


def test_a_checkpoint_between_two_lines_of_the_log_keeps_the_sums(training, execution):
    """Stopped in step 4 of a log every 4: the checkpoint of step 3 holds the losses of three steps."""
    config = training.config("supervised", log_every=4, iterations=6)
    whole = train(training, config, "sums-whole", execution)
    cut = stop_and_continue(training, config, "sums-cut", execution, steps=(4,))
    assert log_lines(cut) == log_lines(whole)
    assert [line["step"] for line in log_lines(cut)] == [4, 6]


def test_rare_checkpoints_cost_work_but_change_nothing(training, execution):
    config = training.config("dual-branch")
    whole = train(training, config, "rare-whole", execution)
    cut = stop_and_continue(training, config, "rare-cut", execution, steps=(5,), checkpoint_every_s=1e9)
    assert cut.manifest.content == whole.manifest.content
    assert log_lines(cut) == log_lines(whole)


def test_workers_change_nothing(training, execution):
    config = training.config("dsrg", iterations=3)
    one = train(training, config, "workers-1", execution, workers=1)
    three = train(training, config, "workers-3", execution, workers=3)
    assert one.manifest.content == three.manifest.content
    assert log_lines(one) == log_lines(three)


class Slow:
    """Progress that gives others the time to kill the training between two steps, and before the last one."""

    @contextmanager
    def track(self, *arguments, **more):
        self.done = 0
        yield self

    def advance(self, *arguments, **more):
        self.done += 1
        time.sleep(0.1 if self.done < 3 else 60)

    def note(self, text):
        pass


def test_kill_9_at_a_random_moment_of_any_training(training, execution, whole):
    """Continued after SIGKILL, the artifact and the log are those of a run that nobody disturbed."""
    for method in ("supervised", "dual-branch", "cps", "dsrg", "classifier"):
        name, config = f"killed-{method}", exact_config(training, method)

        def soon_after_the_first_line(name=name):
            logs = training.space.path.glob(f".{name}.*.partial/local/metrics.jsonl")
            if begun := any(file.read_text() for file in logs):
                time.sleep(random.uniform(0, 0.25))
            return begun

        act = functools.partial(train, training, config, name, execution, progress=Slow())
        assert killed_when(soon_after_the_first_line, act)
        (folder,) = training.space.partials(name)
        assert 0 < checkpoint.load(folder / ".scratch" / CHECKPOINT)["step"] < 4  # whole, whenever it was killed
        continued = train(training, config, name, execution)
        assert continued.manifest.content == whole(method, execution).manifest.content
        assert log_lines(continued) == log_lines(whole(method, execution))


# --- snapshots ---


@pytest.mark.parametrize(
    ("iterations", "snapshots", "expected"),
    [
        (6, 1, []),
        (6, 3, [2, 4]),
        (100, 3, [33, 67]),
        (900, 10, [90, 180, 270, 360, 450, 540, 630, 720, 810]),
        (2, 10, [1]),  # more than there are steps: each once, the last one not again
        (1, 3, []),
    ],
)
def test_snapshots_are_evenly_spaced_and_end_with_the_last_weights(iterations, snapshots, expected):
    assert snapshot_steps(iterations, snapshots) == expected


def test_snapshots_are_the_predictor_of_their_step_and_change_nothing_else(training, execution):
    """Beside the average that the checkpoint of that step holds."""
    config = training.config("supervised", seed=3, snapshots=3)
    with pytest.raises(StoppedError):
        train(training, config, "kept", execution, progress=StopAt(3))
    (folder,) = training.space.partials("kept")
    state = checkpoint.load(folder / ".scratch" / CHECKPOINT)
    assert state["step"] == 2
    made = train(training, config, "kept", execution)
    assert snapshots_of(made) == {2: "snapshots/2.pt", 4: "snapshots/4.pt"}
    assert made.summary["snapshots"] == [2, 4, 6]
    for name, value in checkpoint.load(made.file("snapshots/2.pt")).items():
        torch.testing.assert_close(value, state["average"][name], rtol=0, atol=0)
    plain = train(training, training.config("supervised", seed=3), "not-kept", execution)
    last = made.file("weights.pt")
    assert last.read_bytes() == plain.file("weights.pt").read_bytes()
    assert "snapshots" not in plain.summary
    assert not snapshots_of(plain)
    different = [load_network(made, file).state_dict() for file in (*snapshots_of(made).values(), "weights.pt")]
    weights = [state["head.scores.weight"] for state in different]
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(weights, 2))


@pytest.mark.parametrize("changes", [{}, {"checkpoint_every_s": 1e9}])
@pytest.mark.parametrize("method", ["supervised", "cps"])
def test_a_stopped_training_keeps_the_same_snapshots(method, changes, training, execution):
    config = training.config(method, seed=3, snapshots=3, ema_decay=None)
    plain = train(training, config, f"kept-{method}", execution)
    cut = stop_and_continue(training, config, f"kept-cut-{method}-{len(changes)}", execution, steps=(2, 5), **changes)
    assert cut.manifest.content == plain.manifest.content
    assert snapshots_of(cut) == {2: "snapshots/2.pt", 4: "snapshots/4.pt"}


def test_snapshots_are_listed_in_the_order_of_their_steps(tmp_path):
    (tmp_path / "snapshots").mkdir()
    for step in (100, 20, 3):
        (tmp_path / "snapshots" / f"{step}.pt").touch()
    assert list(snapshots_of(tmp_path)) == [3, 20, 100]
    assert snapshots_of(tmp_path / "nothing") == {}


# --- what is exported ---


@pytest.mark.parametrize("method", CASES)
def test_the_exported_weights_are_one_network(method, training, execution, whole):
    """No weak branch and no second network; loaded, it predicts what the training's predictor predicts."""
    artifact, kind = whole(method, execution), METHODS[CASES[method]["name"]].card.output
    state = checkpoint.load(artifact.file("weights.pt"))
    assert not [name for name in state if "weak" in name or "second" in name]
    network = load_network(artifact)
    assert list(network.state_dict()) == list(state)
    assert network.class_names == ("background", "red", "green", "blue")
    image = torch.from_numpy(training.dataset.image("v0")).permute(2, 0, 1)[None]
    with torch.inference_mode():
        assert network(normalise(image)).shape[1] == (3 if kind == "classifier" else 4)  # without background
    assert artifact.kind == kind
    assert artifact.verify() == []
    of_labels = METHODS[CASES[method]["name"]].card.uses == ("tags",)
    expected = {
        "supervised": {"oversampled": 11},
        "supervised-clamped": {"mixed": 11},
        "dual-branch": {"strong": 6, "weak": 5},
        "dual-branch-clamped": {"strong": 6, "weak": 5},
        "dsrg": {"weak": 11},
    }.get(method, {"labelled": 11} if of_labels else {"strong": 6, "unlabelled": 5})
    assert expected.items() <= artifact.summary["images"].items()


@pytest.mark.parametrize("method", trained_by("classifier"))
def test_a_classifier_is_scored(method, training, execution, whole):
    summary = whole(method, execution).summary
    assert set(summary["average_precision"]) == {"red", "green", "blue"}
    assert summary["score_split"] == "val"


@pytest.mark.parametrize("method", ["dsrg", "self-training", "st-plus-plus", "dmt"])
def test_hard_examples_are_refused_where_no_loss_is_on_exact_masks_alone(method, training):
    with pytest.raises(ConfigError, match=f"hard_examples has no effect on {method}"):
        training.config(method, hard_examples={})
    for other in ("supervised", "cps", "fixmatch", "gct", "dual-branch"):
        assert training.config(other, hard_examples={}).hard_examples is not None


def test_without_an_average_the_last_weights_are_exported(training, execution):
    """One step of plain gradient descent: EMA's first step copies, so both export the same weights."""
    made = {
        decay: train(training, training.config(ema_decay=decay, iterations=1), f"average-{decay}", execution)
        for decay in (None, 0.9)
    }
    assert made[None].manifest.content == made[0.9].manifest.content


def test_a_training_starts_from_given_weights(training, execution, whole):
    """iterations 1 at a learning rate of nearly 0: the given weights come out again."""
    changes = {"iterations": 1, "optimizer": {"name": "sgd", "lr": 1e-12, "weight_decay": 0.0}, "seed": 77}
    given = {"initial": "whole-supervised"}
    first = checkpoint.load(whole("supervised", execution).file("weights.pt"))
    again = train(training, training.config(**changes), "initial", execution, given)
    for name, value in checkpoint.load(again.file("weights.pt")).items():
        torch.testing.assert_close(value, first[name], rtol=0, atol=1e-7)


def test_given_weights_of_another_network_are_named(training, execution, whole):
    whole("supervised", execution)
    given = {"initial": "whole-supervised"}
    network = {"preset": "tiny", "head_channels": 24, "neck_layers": 1, "neck_channels": 16}
    with pytest.raises(
        ConfigError, match=r"initial.*of a different shape: head\.scores\.weight|initial(.|\n)*a different shape"
    ):
        train(training, training.config(network=network), "misfit", execution, given)


# --- bad input ---


def test_a_damaged_checkpoint_says_how_to_start_again(training, execution):
    config = training.config(seed=11)
    with pytest.raises(StoppedError):
        train(training, config, "damaged", execution, progress=StopAt(3))
    (folder,) = training.space.partials("damaged")
    file = folder / ".scratch" / CHECKPOINT
    whole_file = file.read_bytes()
    for damage in (whole_file[: len(whole_file) // 2], b"", whole_file[:3000] + b"????" + whole_file[3004:]):
        file.write_bytes(damage)
        with pytest.raises(ArtifactError) as caught:
            train(training, config, "damaged", execution)
        assert str(file) in caught.value.message
        assert "from its first step" in caught.value.hint
    file.unlink()
    again = train(training, config, "damaged", execution)
    assert log_lines(again)[0]["step"] == 2


@pytest.mark.parametrize(
    "spoil", ["list", "empty", "keys", "shapes", "types", "NaN", "long moments", "NaN moments", "step"]
)
def test_a_checkpoint_of_something_else_is_refused(spoil, training, execution):
    """Moments of a different shape would be walked through beyond their end by a fused optimiser."""
    config = training.config(seed=12)
    name = f"foreign-{spoil}".replace(" ", "-")
    with pytest.raises(StoppedError):
        train(training, config, name, execution, progress=StopAt(2))
    (folder,) = training.space.partials(name)
    file = folder / ".scratch" / CHECKPOINT
    state = checkpoint.load(file)
    networks, (optimizer, moments) = state["networks"], next(iter(state["optimizers"].items()))

    def changed(change):
        spoilt = {key: {name: change(v) for name, v in values.items()} for key, values in moments["state"].items()}
        return state | {"optimizers": {optimizer: moments | {"state": spoilt}}}

    foreign = {
        "list": [1, 2],
        "empty": {},
        "keys": state | {"networks": {"no": torch.zeros(1)}},
        "shapes": state | {"networks": {key: torch.zeros(2) for key in networks}},
        "types": state | {"networks": {key: value.half() for key, value in networks.items()}},
        "NaN": state | {"networks": {key: value * float("nan") for key, value in networks.items()}},
        "long moments": changed(lambda value: torch.zeros(2)),
        "NaN moments": changed(lambda value: value * float("nan")),
        "step": state | {"step": 99},
    }
    checkpoint.save(file, foreign[spoil])
    with pytest.raises(ArtifactError, match=r"do(es)? not fit this training"):
        train(training, config, name, execution)


def test_the_checkpoint_of_another_method_is_refused(training, execution):
    """Moved there by hand: work of another method has another folder."""
    for name, method in (("own", "supervised"), ("other", "cps")):
        with pytest.raises(StoppedError):
            train(training, training.config(method), f"method-{name}", execution, progress=StopAt(2))
    own, other = (training.space.partials(f"method-{name}")[0] / ".scratch" / CHECKPOINT for name in ("own", "other"))
    own.write_bytes(other.read_bytes())
    with pytest.raises(ArtifactError, match="is of Cps, not of Supervised") as caught:
        train(training, training.config("supervised"), "method-own", execution)
    assert "from its first step" in caught.value.hint


def test_another_config_has_another_folder_and_both_can_be_continued(training, execution):
    first, second = training.config(seed=21), training.config(seed=22)
    for config in (first, second):
        with pytest.raises(StoppedError):
            train(training, config, "two", execution, progress=StopAt(3))
    assert len(training.space.partials("two")) == 2
    progress = StopAt(None)
    train(training, second, "two", execution, progress=progress)
    assert progress.notes == ["continuing from step 2 of 6"]


def test_fewer_labels_than_the_batch_holds_are_told(training, execution):
    progress = StopAt(None)
    config = training.config("cps", batch_size=16, iterations=1)
    train(training, config, "few", execution, progress=progress)
    assert "strong: 6 images for batches of 8, which hold some twice" in progress.notes


def test_a_batch_of_one_has_no_halves(training, execution):
    with pytest.raises(ConfigError, match=r"batch_size 1 is 0\.5 images") as caught:
        train(training, training.config("mean-teacher", batch_size=1), "one", execution)
    assert caught.value.hint == "use batch_size 2, or set another method.labelled_share"


def test_weights_that_are_not_there_are_named(training, execution):
    network = {"preset": "tiny", "weights": "/no/such/weights.pth"}
    with pytest.raises(ConfigError, match=r"network\.weights names /no/such/weights\.pth, which is not there"):
        train(training, training.config(network=network), "no-weights", execution)


@pytest.mark.parametrize("log_every", [1, 4])
def test_a_loss_that_is_not_a_number_names_step_and_term(log_every, training, execution):
    """The first step and the terms that were bad there, however seldom the log is written."""
    config = training.config("dual-branch", optimizer={"lr": 1e18}, log_every=log_every)
    with pytest.raises(SemisegError, match=r"the loss strong(, weak)? is not a finite number at step [23]\s") as caught:
        train(training, config, f"nan-{log_every}", execution, checkpoint_every_s=1e9)
    assert "optimizer.lr" in caught.value.hint


def test_only_the_term_that_was_bad_first_is_named(training, execution, monkeypatch):
    """What follows from it, in later steps and in other terms, is left out."""
    real = DualBranch.losses

    def losses(self, batch, step):
        spoilt = {2: ["weak"], 3: ["strong", "weak"]}.get(step, [])
        found = real(self, batch, step)
        return {name: value * float("nan") if name in spoilt else value for name, value in found.items()}

    monkeypatch.setattr(DualBranch, "losses", losses)
    config = training.config("dual-branch", log_every=6, optimizer={"lr": 0.0001})
    with pytest.raises(SemisegError, match=r"the loss weak is not a finite number at step 3\s"):
        train(training, config, "nan-first", execution, checkpoint_every_s=1e9)


# --- figures beside the losses


@pytest.mark.parametrize(
    ("method", "name", "changes", "expected"),
    [
        ("fixmatch", "confident", {"threshold": 0.0}, 1),
        ("fixmatch", "confident", {"threshold": 1.0}, 0),
        ("unimatch", "confident", {"threshold": 0.0}, 1),
        ("unimatch-v2", "confident", {"threshold": 0.0}, 1),
        ("cutmix-seg", "confident", {"threshold": 0.0}, 1),
        ("vat", "confident", {"threshold": 1.0}, 0),
        ("pseudoseg", "confident", {"threshold": 0.0}, 1),
        ("s4gan", "chosen", {"threshold": 0.0}, 1),
        ("advsemseg", "trusted", {"threshold": 0.0, "start": 0.0}, 1),
        ("dmt", "pseudo_label_weight", {"gamma_agree": 0.0, "gamma_differ": 0.0}, None),
    ],
)
def test_what_a_method_observes_is_logged_beside_its_losses(method, name, changes, expected, training, execution):
    config = training.config(CASES[method] | changes, iterations=2)
    made = train(training, config, f"seen-{method}-{changes.get('threshold', 'x')}".replace(".", "-"), execution)
    (line,) = log_lines(made)
    assert 0 <= line[name] <= 1
    assert expected is None or line[name] == pytest.approx(expected)
    assert made.summary["observed"] == {name: pytest.approx(line[name], abs=1e-5)}
    assert name not in made.summary["losses"]


# --- interrupted in order


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_keeps_the_step_it_was_in(number, training, execution, monkeypatch):
    """Ctrl-C, and what batch systems send: the checkpoint of that very step, though none was due."""

    def handler(signum, frame):
        raise StoppedError

    before = signal.signal(number, handler)
    try:
        config = training.config("fixmatch", log_every=6)
        whole = train(training, config, f"uninterrupted-{number}", execution)
        real, name = FixMatch.losses, f"interrupted-{number}"

        def losses(self, batch, step):
            if step == 3:  # in the middle of the fourth step
                os.kill(os.getpid(), number)
            return real(self, batch, step)

        monkeypatch.setattr(FixMatch, "losses", losses)
        with pytest.raises(StoppedError):
            train(training, config, name, execution, checkpoint_every_s=1e9)
        monkeypatch.undo()
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)
    (folder,) = training.space.partials(name)
    assert checkpoint.load(folder / ".scratch" / CHECKPOINT)["step"] == 4
    continued = train(training, config, name, execution)
    assert continued.manifest.content == whole.manifest.content
    assert log_lines(continued) == log_lines(whole)


def test_a_loss_that_is_not_a_number_names_the_checkpoint_to_return_to(training, execution):
    """A weight that is far too large, but finite, in the checkpoint of step 2."""
    config = training.config("supervised", log_every=1, ema_decay=None)
    with pytest.raises(StoppedError):
        train(training, config, "nan-later", execution, progress=StopAt(3))
    (folder,) = training.space.partials("nan-later")
    state = checkpoint.load(folder / ".scratch" / CHECKPOINT)
    name = next(key for key in state["networks"] if key.endswith("scores.weight"))
    state["networks"][name] = torch.full_like(state["networks"][name], 1e38)
    checkpoint.save(folder / ".scratch" / CHECKPOINT, state)
    with pytest.raises(SemisegError, match="not a finite number at step 3") as caught:
        train(training, config, "nan-later", execution)
    assert "of step 2" in caught.value.hint
    assert str(folder / ".scratch" / CHECKPOINT) in caught.value.hint


def test_spoilt_weights_are_neither_saved_nor_exported(training, execution):
    """The gradient of the last step is NaN or huge, and no loss shows it."""
    config = training.config(optimizer={"lr": 3e37, "weight_decay": 1e30}, iterations=1, ema_decay=None)
    with pytest.raises(SemisegError, match=r"the weight \S+ is not a finite number after step 1"):
        train(training, config, "spoilt", execution)
    assert not any((folder / ".scratch" / CHECKPOINT).exists() for folder in training.space.partials("spoilt"))


def test_a_missing_weak_label_is_named_before_the_first_step(own_training, execution):
    folder = own_training.space.folder("weak-labels") / "masks"
    for image_id in ("w1", "w3"):
        (folder / f"{image_id}.png").unlink()
    progress = StopAt(None)
    with pytest.raises(DataError, match="weak_labels: 2 of 5 images have no label map") as caught:
        train(own_training, own_training.config("dual-branch"), "m", execution, progress=progress)
    assert "w1, w3" in caught.value.message
    assert not progress.shown


def test_images_without_masks_cannot_be_strong(own_training, execution):
    """A weak split used as the strong one: named before the first step."""
    dataset = own_training.space.folder("data") / "dataset.json"
    record = json.loads(dataset.read_text())
    record["masks"] = [image_id for image_id in record["masks"] if image_id != "w2"]
    dataset.write_text(json.dumps(record))
    sign_again(dataset.parent)
    with pytest.raises(DataError, match="masks: 1 of 5 images have no label map: w2"):
        train(own_training, own_training.config({"name": "supervised"}, train_split="weak"), "m", execution)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_label_map_of_another_size_is_named_in_words(workers, own_training, execution):
    """Also from a loader's process: the message, not its traceback."""
    size = own_training.dataset.image("w2").shape[:2]
    wrong = np.zeros((size[0] + 1, size[1]), np.uint8)
    write_mask(own_training.space.folder("weak-labels") / "masks" / "w2.png", wrong)
    expected = f"weak_labels of w2 is {size[1]}x{size[0] + 1} pixels, its image {size[1]}x{size[0]}"
    with pytest.raises(DataError) as caught:
        train(own_training, own_training.config("dual-branch"), "m", execution, workers=workers)
    assert caught.value.message == expected
    assert caught.value.hint


@pytest.mark.parametrize(
    ("method", "message", "hint"),
    [
        ("dual-branch", "batch_size 5 is odd", "use batch_size 6"),
        ({"name": "cps"}, "labelled_share 0.5 of batch_size 5 is 2.5 images", "use batch_size 6, or set"),
        ({"name": "dmt"}, "labelled_share 0.125 of batch_size 5 is 0.625 images", "use batch_size 8, or set"),
        ({"name": "vat", "labelled_share": 0.99}, "is 4.95 images; whole ones are needed", "use batch_size 95, or"),
        ({"name": "vat", "labelled_share": 0.004}, "is 0.02 images", "set another method.labelled_share"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused(method, message, hint, training, execution):
    with pytest.raises(ConfigError, match=message) as caught:
        train(training, training.config(method, batch_size=5), "odd", execution)
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize(("share", "batch"), [(0.333, 3), (0.16667, 96), (0.75, 4)])
def test_a_share_that_is_nearly_whole_is_taken(share, batch):
    settings = METHODS["unimatch"](labelled_share=share)
    assert shares(settings, batch) == (round(share * batch), batch - round(share * batch))


@pytest.mark.parametrize(
    ("method", "changes", "inputs", "message"),
    [
        ({"name": "supervised"}, {"train_split": "nothing"}, {}, "no split 'nothing'"),
        ("dual-branch", {}, {"weak_labels": None}, "needs the input 'weak_labels'"),
        ("dsrg", {}, {"seeds": None}, "needs the input 'seeds'"),
        ("supervised", {}, {"weak_labels": None}, "needs the input 'weak_labels'"),
    ],
)
def test_what_a_method_lacks_is_named(method, changes, inputs, message, training, execution):
    with pytest.raises(SemisegError, match=message) as caught:
        train(training, training.config(method, **changes), "lacking", execution, inputs)
    assert caught.value.hint


@pytest.mark.parametrize(("method", "missing"), [("supervised", "train"), ("dual-branch", "weak"), ("cps", "weak")])
def test_an_empty_split_is_named(method, missing, own_training, execution):
    splits = {name: ids for name, ids in own_training.dataset.splits.items() if name != missing}
    publish_dataset(own_training.space, "less", splits)
    with pytest.raises(ConfigError, match="needs images") as caught:
        train(own_training, own_training.config(method), "empty", execution, {"data": "less"})
    assert f"'{missing}' " in str(caught.value)


# --- too little for BatchNorm ---


@pytest.mark.parametrize(
    "network",
    [
        {"preset": "tiny", "head": "deeplabv3plus", "head_norm": "batch"},
        {"preset": "mobilenet_v2", "weights": "none", "freeze_batch_norm": False, "output_stride": 16},
        {"preset": "mobilenet_v2", "weights": "none", "freeze_batch_norm": False, "output_stride": 16, "head": "aspp"},
    ],
)
def test_batch_norm_on_one_image_whose_map_is_one_cell_says_what_to_change(training, execution, network):
    config = training.config("supervised", network=network, batch_size=1, crop_size=16)
    with pytest.raises(ConfigError, match="BatchNorm cannot train on a batch of one image") as caught:
        train(training, config, "alone", execution)
    assert all(setting in caught.value.hint for setting in ("batch_size", "crop_size", "network.head_norm"))


def test_batch_norm_of_a_classifier_on_one_small_image_says_what_to_change(training, execution):
    network = {"preset": "mobilenet_v2", "weights": "none", "freeze_batch_norm": False}
    config = training.classifier_config(network=network, batch_size=1, crop_size=16)
    with pytest.raises(ConfigError, match="BatchNorm cannot train on a batch of one image"):
        train(training, config, "alone", execution)
