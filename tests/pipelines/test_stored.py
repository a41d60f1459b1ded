"""What `du` and `gc` find, remove and leave in an object store: a real S3 server."""

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.catlib.artifacts import MANIFEST, Manifest, read_manifest, writing
from components.catlib.config import PruneConfig
from components.catlib.storage import Storage, Store, open_store
from components.catlib.storage.objects import S3Store
from components.catlib.training.checkpoints import Checkpoints, open_checkpoints
from pipelines import collecting, stored
from pipelines.__main__ import main
from pipelines.collectable import InUse
from tests.object_stores import SeaweedServer, seaweed_server

RUN = "0f3c1f5e-0000-4000-8000-0123456789ab"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    with seaweed_server(tmp_path_factory.mktemp("store") / "data") as server:
        Storage(server.environment).make_bucket("s3://cat")
        yield server


@pytest.fixture
def root(server: SeaweedServer, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A prefix of the test's own."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://cat/{request.node.name.replace('[', '-').replace(']', '')}"


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets days pass, for `du` and `gc` alone: nobody can make objects of a server older."""

    def pass_(days: float) -> None:
        monkeypatch.setattr(collecting, "time", SimpleNamespace(time=lambda: time.time() + days * 86400))

    return pass_


def gc(root: str, capsys: pytest.CaptureFixture[str], *further: str, exit_code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["gc", "--store", root, "--json", *further]) == exit_code
    return json.loads(capsys.readouterr().out)


def checkpoints(address: str) -> None:
    with Checkpoints(open_checkpoints(address), origin={"stage": "teacher"}) as kept:
        kept.save(10, {"step": 10})
    open_store(address).write("owner-000001.json", b"{}")


def artifact(folder: Path, address: str, inputs: Mapping[str, Manifest] = {}) -> Manifest:
    with writing(folder, kind="prune", config=PruneConfig(), inputs=dict(inputs)) as writer:
        (writer.folder / "a").mkdir()
        (writer.folder / "a" / "content").write_text(address)
    Storage().publish(folder, address)
    return read_manifest(folder)


def names(root: str) -> set[str]:
    return {entry.name for entry in open_store(root).entries()}


def test_old_checkpoints_and_artifacts_go_whole_and_all_else_stays(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], later: Callable[[float], None]
) -> None:
    checkpoints(f"{root}/teacher-0123456789abcdef/500+200")
    artifact(tmp_path / "one", f"{root}/smoke/prune")
    place = open_store(root)
    for foreign in ("photos/1.png", "smoke/prune/notes.txt", "teacher-0123456789abcdef/readme.txt", "top.txt"):
        place.write(foreign, b"mine")
    place.write("mixed/step-000000010.pt", b"x")
    place.write("mixed/notes.txt", b"mine")
    before = names(root)
    neighbour = f"{root}-neighbour"
    checkpoints(f"{neighbour}/teacher/500+200")
    assert gc(root, capsys, "--delete")["things"] == [], "nothing is old yet"
    later(31)
    answer = gc(root, capsys)
    assert {(each["kind"], each["address"]) for each in answer["things"]} == {
        ("checkpoints", f"{root}/teacher-0123456789abcdef/500+200"),
        ("artifacts", f"{root}/smoke/prune"),
    }
    assert names(root) == before, "that was a dry run"
    assert gc(root, capsys, "--delete")["bytes"] == answer["bytes"] > 0
    assert names(root) == {
        *("photos/1.png", "smoke/prune/notes.txt", "teacher-0123456789abcdef/readme.txt", "top.txt"),
        *("mixed/step-000000010.pt", "mixed/notes.txt"),
    }
    assert len(names(neighbour)) == 3


def test_the_notes_of_refused_tasks_go_one_by_one_and_runs_of_kubeflow_stay(
    root: str, capsys: pytest.CaptureFixture[str], later: Callable[[float], None]
) -> None:
    place = open_store(root)
    note = f"refused/{RUN}.prepare-dataset.8ab89bcd-897e-4906-b649-6ed030c53b83.json"
    place.write(note, b"{}")
    place.write("refused/my own list.json", b"{}")
    place.write(f"compress/{RUN}/prepare-dataset/8ab89bcd/refused/a.b.c.json", b"{}")
    assert gc(root, capsys, "--delete")["things"] == []
    later(31)
    (found,) = gc(root, capsys, "--delete")["things"]
    assert (found["kind"], found["address"]) == ("refusals", f"{root}/{note}")
    assert len(names(root)) == 2
    assert note not in names(root)


def test_a_place_with_a_young_file_stays_whole(
    root: str, capsys: pytest.CaptureFixture[str], later: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints(f"{root}/teacher/500+200")
    entries = S3Store.entries

    def one_is_young(self: S3Store) -> list:
        return [
            entry._replace(modified=entry.modified + 31 * 86400) if "owner" in entry.name else entry
            for entry in entries(self)
        ]

    monkeypatch.setattr(S3Store, "entries", one_is_young)
    later(31)
    assert gc(root, capsys, "--delete", "--older-than", "1d")["things"] == []
    assert gc(root, capsys, "--delete", "--older-than", "0d")["things"] == [], "an hour at least"
    assert len(names(root)) == 3


def test_what_something_young_was_made_from_stays(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = artifact(tmp_path / "teacher", f"{root}/teacher")
    artifact(tmp_path / "student", f"{root}/student", {"teacher": teacher})
    artifact(tmp_path / "other", f"{root}/other")
    entries = S3Store.entries

    def all_but_the_student_are_old(self: S3Store) -> list:
        return [
            entry if entry.name.startswith("student/") else entry._replace(modified=entry.modified - 90 * 86400)
            for entry in entries(self)
        ]

    monkeypatch.setattr(S3Store, "entries", all_but_the_student_are_old)
    assert [each["address"] for each in gc(root, capsys)["things"]] == [f"{root}/other"]


def test_an_artifact_that_was_replaced_goes_with_its_new_objects(root: str, tmp_path: Path) -> None:
    artifact(tmp_path / "one", f"{root}/prune")
    place = open_store(root)
    fields = json.loads(place.read(f"prune/{MANIFEST}"))
    fields["store"] = {"folders": {"a/content": ".20270131T120000-0a1b2c3d"}}
    place.write(f"prune/{MANIFEST}", json.dumps(fields).encode())
    place.write("prune/.20270131T120000-0a1b2c3d/a/content", b"new")
    (thing,) = stored.things_in_store(place)
    thing.remove()
    assert names(root) == set()


def test_the_address_may_be_that_of_an_artifact_or_of_checkpoints(root: str, tmp_path: Path) -> None:
    artifact(tmp_path / "one", f"{root}/prune")
    checkpoints(f"{root}/state")
    for name, kind in (("prune", "artifacts"), ("state", "checkpoints")):
        (thing,) = stored.things_in_store(open_store(f"{root}/{name}"))
        assert (thing.kind, thing.address) == (kind, f"{root}/{name}")
        thing.remove()
    assert names(root) == set()


def test_runs_of_kubeflow_stay_and_are_shown(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], later: Callable[[float], None]
) -> None:
    artifact(tmp_path / "teacher", f"{root}/compress/{RUN}/train-teacher/9c1e/teacher")
    open_store(root).write(f"compress/{RUN}/train-teacher/9c1e/executor-logs-0", b"a line")
    before = names(root)
    later(365)
    answer = gc(root, capsys, "--delete")
    assert answer["things"] == []
    (kept,) = answer["kept"]
    assert (kept["kind"], kept["address"]) == ("runs of Kubeflow", f"{root}/compress/{RUN}")
    assert "cache" in kept["reason"]
    assert names(root) == before
    assert main(["du", "--store", root]) == 0
    assert "runs of Kubeflow        1" in capsys.readouterr().out


def test_uploads_that_were_never_ended_are_aborted(
    root: str, capsys: pytest.CaptureFixture[str], later: Callable[[float], None]
) -> None:
    def begin(store: Store) -> None:
        assert isinstance(store, S3Store)
        client, location = store._objects.client, store.location
        upload = client._create_multipart_upload(location.bucket, location.key("teacher/big.bin"), {})
        client._upload_part(
            location.bucket, location.key("teacher/big.bin"), io.BytesIO(b"x" * 5).read(), {}, upload, 1
        )

    begin(open_store(root))
    begin(open_store(f"{root}-neighbour"))
    assert gc(root, capsys, "--delete")["things"] == []
    later(31)
    (found,) = gc(root, capsys, "--delete")["things"]
    assert (found["kind"], found["address"]) == ("unfinished uploads", f"{root}/teacher/big.bin")
    for address, left in ((root, 0), (f"{root}-neighbour", 1)):
        place = open_store(address)
        assert isinstance(place, S3Store)
        assert len(place.unfinished_uploads()) == left


def test_what_changes_while_it_is_collected_stays(root: str) -> None:
    checkpoints(f"{root}/teacher/500+200")
    (thing,) = stored.things_in_store(open_store(root))
    open_store(root).write("teacher/500+200/owner-000001.json", b'{"beats": 1}')
    with pytest.raises(InUse, match="changed since"):
        thing.remove()
    assert len(names(root)) == 3


def test_a_refusal_is_said_the_rest_goes_on_and_the_exit_code_is_1(
    root: str,
    capsys: pytest.CaptureFixture[str],
    later: Callable[[float], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("a", "b"):
        checkpoints(f"{root}/{name}/1+1")
    remove = S3Store.remove

    def refuse(self: S3Store, name: str) -> None:
        if name.startswith("a/"):
            raise OSError("the store refused")
        remove(self, name)

    monkeypatch.setattr(S3Store, "remove", refuse)
    later(31)
    answer = gc(root, capsys, "--delete", exit_code=1)
    assert [each["address"] for each in answer["failed"]] == [f"{root}/a/1+1"]
    assert [each["address"] for each in answer["things"]] == [f"{root}/b/1+1"]
    assert {name[:2] for name in names(root)} == {"a/"}


def test_the_place_may_come_from_a_recipe(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], later: Callable[[float], None]
) -> None:
    checkpoints(f"{root}/teacher/1+1")
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"{{name: own, description: d, budgets: [0.1x], resources: {{checkpoints: '{root}'}}}}")
    later(31)
    assert main(["gc", "--recipe", str(recipe)]) == 0
    assert f"31 d   {root}/teacher/1+1" in capsys.readouterr().out
