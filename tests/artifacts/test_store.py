"""artifacts/store.py and writing.py: names, items, unfinished work, what is published and what is left alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from artifacts.errors import ArtifactError
from artifacts.store import Workspace, Writer
from artifacts.writing import read_unfinished
from tests.artifacts.small_artifacts import leftovers, make, work

# --- names ---


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".x", "a/b", "../x", "/x", "a\\b", " a", "a ", "a\n", "a\0b", "-rf", "*", "a*", "[a]", "x" * 101],
)
def test_names_that_could_escape_or_confuse_are_refused(workspace, name):
    for act in (workspace.artifact, workspace.partials, workspace.folder, workspace.remove, workspace.holder):
        with pytest.raises(ArtifactError, match="cannot name an artifact"):
            act(name)
    with pytest.raises(ArtifactError, match="cannot name"), workspace.writing(name, work()):
        pass
    with pytest.raises(ArtifactError, match="cannot name"), workspace.reading([name]):
        pass
    assert not workspace.path.exists()


@pytest.mark.parametrize("name", ["m", "seeds-v1.2", "2007_x", "größe", "a.partial", "b.old"])
def test_plain_names_work(workspace, name):
    make(workspace, name)
    assert workspace.names() == [name]
    assert workspace.artifact(name).name == name


@pytest.mark.parametrize("relative", ["", "/etc/x", "../x", "a/../../x", "a\\x", "manifest.json", ".hidden", "a/.b/c"])
def test_items_cannot_leave_the_folder_or_take_names_of_the_store(workspace, relative):
    with workspace.writing("m", work()) as writer:
        with pytest.raises(ArtifactError, match=r"leaves the artifact|name of the store"):
            writer.write_bytes(relative, b"x")
        assert sorted(p.name for p in writer.path.iterdir()) == [".asked.json", ".scratch", ".work.json"]
    artifact = make(workspace, "n")
    for outside in ("../m/x.txt", "/etc/passwd"):
        with pytest.raises(ArtifactError, match="leaves the artifact"):
            artifact.file(outside)


def test_work_of_one_name_is_not_taken_for_work_of_a_longer_one(workspace):
    """`.a.*.partial` once matched the unfinished work of `a.b`: cleaning `a` deleted it."""
    with workspace.writing("a.b", work()) as writer:
        writer.write_bytes("x.txt", b"1")
    with workspace.writing("a", work()) as writer:
        writer.write_bytes("x.txt", b"1")
    assert [p.name for p in workspace.partials("a")] == [".a.aaaaaaaaaaaa.partial"]
    workspace.discard_partials("a")
    workspace.remove("a")
    assert leftovers(workspace) == [path.name for path in workspace.partials("a.b")]
    assert (workspace.partials("a.b")[0] / "x.txt").exists()


# --- items and unfinished work ---


def test_an_item_is_there_whole_or_not_at_all(workspace):
    with workspace.writing("m", work()) as writer:

        def broken() -> None:
            with writer.item("a/x.bin") as temporary:
                temporary.write_bytes(b"half")
                assert temporary.suffix == ".bin"
                assert not writer.has("a/x.bin")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            broken()
        assert not writer.has("a/x.bin")
        assert list((writer.path / "a").iterdir()) == []
        writer.write_bytes("a/x.bin", b"whole")
        assert writer.has("a/x.bin")


def test_unfinished_work_is_continued_and_counted(workspace):
    for run in range(3):
        with workspace.writing("m", work()) as writer:
            assert writer.resumed == run
            assert [writer.has(f"{i}.txt") for i in range(3)] == [i < run for i in range(3)]
            writer.write_bytes(f"{run}.txt", b"x")
            writer.scratch.joinpath("state").write_text("s")
    with workspace.writing("m", work()) as writer:
        assert (writer.scratch / "state").exists()
        artifact = workspace.publish("m", writer, work(), {})
    assert artifact.manifest.resumed == 3
    assert sorted(p.name for p in artifact.path.iterdir()) == ["0.txt", "1.txt", "2.txt", "manifest.json"]
    assert leftovers(workspace) == []


def test_work_that_made_nothing_leaves_nothing(workspace):
    make(workspace)
    with workspace.writing("m", work("b" * 64)) as writer:
        writer.expect(3)
        (writer.path / "local").mkdir()
        (writer.path / "local" / "metrics.jsonl").write_text("{}")
        (writer.scratch / ".checkpoint.pt.partial").write_text("half")
    assert leftovers(workspace) == []
    assert workspace.names() == ["m"]


@pytest.mark.parametrize("kept", ["x.txt", "masks/x.png", ".scratch/checkpoint.pt"])
def test_work_that_made_something_is_kept(workspace, kept):
    with workspace.writing("m", work()) as writer:
        writer.write_bytes(kept, b"x")
    with workspace.writing("m", work()) as writer:
        assert (writer.resumed, writer.has(kept)) == (1, True)


def test_a_run_killed_before_it_made_anything_is_not_continued(tmp_path):
    killed = Writer(tmp_path / ".a.0123456789ab.partial")
    killed.take_over(work())
    killed.expect(3)
    again = Writer(killed.path)
    again.take_over(work())
    assert again.resumed == 0
    assert again.seconds < 1


def test_unfinished_work_says_what_it_is(workspace, monkeypatch):
    monkeypatch.setattr("sys.argv", ["semiseg", "train"])
    with workspace.writing("m", work()) as writer:
        writer.write_bytes("x.txt", b"x")
        writer.expect(3)
        writer.advance_to(3)
    (found,) = workspace.unfinished("m")
    assert (found.folder, found.work, found.argv) == (writer.path, work(), ["semiseg", "train"])
    assert (found.done, found.total) == (3, 3)
    assert 0 <= found.seconds < 10
    assert found.written.startswith("20")
    assert workspace.unfinished("n") == []


@pytest.mark.parametrize("damage", ["", "[]", "{", '{"work": {"stage": 1}, "argv": []}', '{"work": null, "argv": []}'])
def test_unfinished_work_of_unknown_settings_is_listed_all_the_same(workspace, damage):
    with workspace.writing("m", work()) as writer:
        writer.write_bytes("x.txt", b"x")
    (writer.path / ".asked.json").write_text(damage)
    (writer.path / ".work.json").unlink()
    (found,) = workspace.unfinished("m")
    assert (found.work, found.argv, found.done, found.total, found.seconds) == (None, [], 0, None, None)


def test_work_with_other_settings_keeps_the_first_partial_work(workspace):
    with workspace.writing("m", work("a" * 64)) as writer:
        writer.write_bytes("x.txt", b"first")
    make(workspace, "m", "second", "b" * 64)
    with workspace.writing("m", work("a" * 64)) as writer:
        assert writer.has("x.txt")
        assert (writer.path / "x.txt").read_bytes() == b"first"


@pytest.mark.parametrize(
    "record", ["", "{", "[]", '{"started": 1}', '{"started": "x", "seconds": "y", "runs": 1}', "\0"]
)
def test_a_record_torn_by_a_kill_does_not_lose_the_work(workspace, record):
    """Publishing after a kill inside the record's write once failed with FileNotFoundError."""
    with workspace.writing("m", work()) as writer:
        writer.write_bytes("x.txt", b"1")
    (writer.path / ".work.json").write_text(record)
    with workspace.writing("m", work()) as writer:
        assert writer.has("x.txt")
        artifact = workspace.publish("m", writer, work(), {})
    assert artifact.manifest.started.startswith("20")


def test_temporary_files_of_a_killed_run_are_dropped(workspace):
    with workspace.writing("m", work()) as writer:
        (writer.path / "a").mkdir()
        (writer.path / "a" / ".tmp-1-x.txt").write_text("half")
    with workspace.writing("m", work()) as writer:
        assert not list(writer.path.rglob("*x.txt"))


def test_progress_is_shown_while_unfinished(workspace):
    def progress():
        return [(found.done, found.total) for found in workspace.unfinished("m")]

    assert progress() == []
    with workspace.writing("m", work()) as writer:
        assert progress() == [(0, None)]
        writer.expect(3)
        writer.advance_to(3)
        assert progress() == [(3, 3)]
        (writer.path / ".progress.json").write_text("[")
        assert progress() == [(0, None)]


def test_json_items_refuse_what_json_cannot_hold(workspace):
    with workspace.writing("m", work()) as writer:
        writer.write_json("a.json", {"b": [1, None], "a": "é"})
        assert json.loads((writer.path / "a.json").read_text()) == {"a": "é", "b": [1, None]}
        for value in ({"x": float("nan")}, {"x": {1}}, {"x": Path("p")}):
            with pytest.raises(ArtifactError, match=r"b\.json cannot be written as JSON"):
                writer.write_json("b.json", value)
        assert not writer.has("b.json")


def test_a_json_item_is_read_back_by_the_run_that_continues(workspace):
    value = {"a": [1, None, "é"], "b": 0.1}
    with workspace.writing("m", work()) as writer:
        writer.write_json("part/x.json", value)
        assert writer.read_json("part/x.json") == value
    with workspace.writing("m", work()) as writer:
        assert writer.read_json("part/x.json") == value
        with pytest.raises(ArtifactError, match="leaves the artifact folder"):
            writer.read_json("../x.json")


def test_a_summary_that_is_not_json_stops_the_publish_before_it_begins(workspace):
    make(workspace, "m", "old")
    with workspace.writing("m", work("b" * 64)) as writer:
        writer.write_bytes("x.txt", b"new")
        with pytest.raises(ArtifactError, match=r"summary\.a is a set"):
            workspace.publish("m", writer, work("b" * 64), {"a": {1}})
    assert workspace.artifact("m").file("x.txt").read_text() == "old"
    assert not (writer.path / "manifest.json").exists()
    with workspace.writing("m", work("b" * 64)) as writer:
        artifact = workspace.publish("m", writer, work("b" * 64), {"iou": [0.5, float("nan")]})
    assert artifact.summary == {"iou": [0.5, None]}
    assert artifact.file("x.txt").read_text() == "new"


def test_a_persons_own_folder_with_the_name_is_never_overwritten(workspace):
    own = workspace.path / "m"
    own.mkdir(parents=True)
    (own / "thesis.txt").write_text("years")
    with pytest.raises(ArtifactError, match=r"is not an artifact .* not overwritten"):
        make(workspace, "m")
    with pytest.raises(ArtifactError, match="not overwritten"):
        workspace.remove("m")
    assert (own / "thesis.txt").read_text() == "years"
    (own / "thesis.txt").unlink()
    make(workspace, "m")  # an empty folder may be filled


def test_a_link_to_an_artifact_is_replaced_and_its_target_kept(workspace, tmp_path):
    target = make(Workspace(tmp_path / "other"), "m", "linked").path
    workspace.path.mkdir(parents=True)
    (workspace.path / "m").symlink_to(target)
    assert workspace.artifact("m").file("x.txt").read_text() == "linked"
    make(workspace, "m", "mine", "b" * 64)
    make(workspace, "m", "again", "c" * 64)
    assert workspace.artifact("m").file("x.txt").read_text() == "again"
    assert (target / "x.txt").read_text() == "linked"


def test_missing_artifacts_and_items_are_named(workspace):
    with pytest.raises(ArtifactError, match="has no artifact 'm'") as caught:
        workspace.artifact("m")
    assert caught.value.hint == "it has: nothing yet"
    with workspace.writing("m", work()) as writer:
        writer.write_bytes("x.txt", b"1")
    make(workspace, "n")
    with pytest.raises(ArtifactError, match="only unfinished work") as caught:
        workspace.artifact("m")
    assert caught.value.hint == "it has: n"
    with pytest.raises(ArtifactError, match=r"'n' \(masks\) has no y\.txt"):
        workspace.artifact("n").file("y.txt")
    (workspace.folder("n") / "x.txt").write_text("{")
    with pytest.raises(ArtifactError, match=r"x\.txt is damaged"):
        workspace.artifact("n").json("x.txt")


def test_reading_from_a_mistyped_workspace_does_not_create_it(tmp_path):
    with pytest.raises(ArtifactError, match="has no artifact"), Workspace(tmp_path / "tpyo").reading(["m"]):
        pass
    assert not (tmp_path / "tpyo").exists()


def test_remove_and_leftovers(workspace):
    make(workspace, "m")
    with workspace.writing("m", work("b" * 64)) as writer:
        writer.write_bytes("x.txt", b"1")
    assert len(leftovers(workspace)) == 1
    assert workspace.discard_partials("m") == [workspace.partial_folder("m", "b" * 64)]
    assert workspace.names() == ["m"]
    workspace.remove("m")
    assert workspace.names() == []
    assert sorted(p.name for p in workspace.path.iterdir()) == [".locks"]


def test_a_worker_that_outlives_its_process_begins_no_new_unfinished_work(workspace):
    with workspace.writing("m", work()) as writer:
        workspace.publish("m", writer, work(), {})
        with pytest.raises(ArtifactError, match="published or removed meanwhile"):
            writer.write_bytes("masks/x.txt", b"late")
    assert leftovers(workspace) == []
    assert workspace.artifact("m").verify() == []


def test_a_writer_of_another_rank_leaves_the_first_ones_files_alone(workspace):
    with workspace.writing("m", work()) as first:
        with first.item("x.txt") as temporary:
            temporary.write_text("x")
            Writer(first.path).write_bytes("y.txt", b"y")
        assert first.has("x.txt")
        assert first.has("y.txt")


def test_the_time_of_a_killed_run_is_counted(tmp_path, monkeypatch):
    """The first writer is left as a SIGKILL leaves it: nothing of it runs any more."""
    clock = [100.0]
    monkeypatch.setattr("artifacts.writing.time.monotonic", lambda: clock[0])
    killed = Writer(tmp_path / ".a.0123456789ab.partial")
    killed.take_over(work())
    killed.write_bytes("0.txt", b"x")
    killed.expect(3)
    clock[0] += 7.0
    killed.advance()
    again = Writer(killed.path)
    again.take_over(work())
    clock[0] += 2.0
    assert again.seconds == 9.0
    assert again.resumed == 1


def test_a_workspace_removed_while_it_is_written_is_said_in_words(workspace):
    def removed_meanwhile(writer):
        with writer.item("b.txt") as path:
            shutil.rmtree(workspace.path)
            path.write_bytes(b"2")

    with workspace.writing("m", work()) as writer:
        writer.write_bytes("a.txt", b"1")
        with pytest.raises(ArtifactError, match="is gone, removed by somebody"):
            removed_meanwhile(writer)
        with pytest.raises(ArtifactError, match="is gone"):
            writer.write_bytes("c.txt", b"3")
        with pytest.raises(ArtifactError, match="is gone"):
            workspace.publish("m", writer, work(), {})
    assert not workspace.path.exists()


def test_unfinished_work_that_was_published_while_it_was_looked_at_is_none(workspace):
    with workspace.writing("m", work()) as writer:
        writer.write_bytes("x.txt", b"1")
    (folder,) = workspace.partials("m")
    shutil.rmtree(folder)
    assert read_unfinished(folder) is None
