"""What determines the weights of a training, and the place that follows from it."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.catlib.artifacts import FileRecord, Manifest
from components.catlib.config import TeacherConfig, validate
from components.catlib.training.origin import Length, Origin

SHA = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("images", "other images", "page", "weights")}


def inputs(*, images: str = "images", page: str = "page", **changes: Any) -> dict[str, Manifest]:
    files = {"train.npy": FileRecord(bytes=1, sha256=SHA[images]), "page.html": FileRecord(bytes=1, sha256=SHA[page])}
    given: dict[str, Any] = {"kind": "dataset", "code_digest": "1", "config": {}, "inputs": {}, "summary": {}}
    return {"dataset": Manifest(**given | {"files": files} | changes)}


def origin(given: dict[str, Manifest] | None = None, **settings: Any) -> Origin:
    config = validate(TeacherConfig, {"epochs": 4, "decay_epochs": 2, **settings}, where="teacher")
    return Origin("teacher", config, inputs() if given is None else given)


def place(*arguments: Any, **settings: Any) -> str:
    found = origin(*arguments, **settings)
    return f"{found.place('root/')}/{found.length.name}"


def test_the_place_is_named_after_the_stage_a_digest_and_the_length() -> None:
    digest = origin().digest()
    assert len(digest) == 16
    assert place() == f"root/teacher-{digest}/4+2"
    assert place(goes_on_from=[2, 3]) == f"root/teacher-{digest}/4+2-after-2-3"


@pytest.mark.parametrize(
    "settings",
    [
        {"patience": 1},
        {"time_limit_seconds": 5.0},
        {"patience": 2, "time_limit_seconds": None},
        {"cudnn_benchmark": True},
        {"speed": "fast", "precision": "fp32", "tf32": False, "channels_last": False, "compile": False},
    ],
)
def test_what_changes_no_weight_changes_no_place(settings: dict[str, Any]) -> None:
    assert place(**settings) == place()


@pytest.mark.parametrize("settings", [{"epochs": 5}, {"decay_epochs": 0}, {"epochs": 9, "goes_on_from": [6]}])
def test_other_lengths_lie_side_by_side(settings: dict[str, Any]) -> None:
    assert origin(**settings).place("root") == origin().place("root")
    assert place(**settings) != place()


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 1},
        {"batch_size": 3},
        {"learning_rate": 1e-4},
        {"schedule": "cosine"},
        {"precision": "bf16"},
        {"keep": "last"},
        {"evaluations": 5},
        {"evaluation_images": 9},
        {"family": "cyclegan"},
        {"adversarial": "hinge"},
        {"schedule": "one_cycle", "steps": 7},
    ],
)
def test_what_changes_weights_or_scores_changes_the_digest(settings: dict[str, Any]) -> None:
    assert origin(**settings).digest() != origin().digest()


def test_inputs_count_by_their_data_alone() -> None:
    """Neither the code that made them, nor when or where, nor pages and logs."""
    same = inputs(page="other images", code_digest="2", summary={"seconds": 3}, config={"source": "elsewhere"})
    assert origin(same).digest() == origin().digest()
    assert origin(inputs(images="other images")).digest() != origin().digest()
    assert origin({"data": inputs()["dataset"]}).digest() != origin().digest()


def test_the_order_of_inputs_does_not_count() -> None:
    dataset, teacher = inputs()["dataset"], inputs(images="other images")["dataset"]
    one_way = origin({"dataset": dataset, "teacher": teacher})
    assert origin({"teacher": teacher, "dataset": dataset}).digest() == one_way.digest()
    assert origin({"teacher": dataset, "dataset": teacher}).digest() != one_way.digest()


@pytest.mark.parametrize(
    "name",
    ["architecture.json", "test_ground_truth.zip", "weights.pth", "a/weights.safetensors", "real.npz", "test.npy"],
)
def test_files_that_weights_or_their_choice_depend_on_count(name: str) -> None:
    """A student with fresh weights is an architecture alone; ground truth chooses weights by mIoU."""

    def with_file(sha256: str) -> Origin:
        return origin(inputs(files={name: FileRecord(bytes=1, sha256=sha256)}))

    assert with_file(SHA["images"]).digest() != with_file(SHA["page"]).digest()
    assert with_file(SHA["images"]).digest() == with_file(SHA["images"]).digest()


@pytest.mark.parametrize(
    "fact",
    [
        {"num_labels": 4},
        {"dont_care_plane": True},
        {"pairing": "unpaired"},
        {"crop_size": [8, 8]},
        {"load_size": [9, 9]},
        {"test_is_paired": False},
    ],
)
def test_the_use_of_a_datasets_arrays_counts(fact: dict[str, Any]) -> None:
    usual = {"num_labels": 35, "dont_care_plane": False, "pairing": "paired", "crop_size": [16, 16]}
    assert origin(inputs(summary=usual | fact)).digest() != origin(inputs(summary=usual)).digest()
    assert origin(inputs(summary=usual | {"provenance": "x"})).digest() == origin(inputs(summary=usual)).digest()


def weights(uri: Path | str, sha256: str | None = None, weight: float = 1.0) -> dict[str, Any]:
    return {"reconstruction": {"kind": "vgg", "weight": weight, "weights": {"uri": str(uri), "sha256": sha256}}}


def test_files_of_weights_count_by_their_content_wherever_they_lie(tmp_path: Path) -> None:
    first, copy, other = tmp_path / "first.pth", tmp_path / "copy.pth", tmp_path / "other.pth"
    first.write_text("weights")
    copy.write_text("weights")
    other.write_text("others")
    digest = origin(**weights(first)).digest()
    assert origin(**weights(copy)).digest() == digest
    assert origin(**weights("s3://cat/weights.pth", SHA["weights"])).digest() == digest
    assert origin(**weights(other)).digest() != digest
    first.write_text("others")
    assert origin(**weights(first)).digest() == origin(**weights(other)).digest()


def test_the_form_of_an_origin_stays(tmp_path: Path) -> None:
    """Checkpoints that are there hold it: digests of inputs and facts have 16 digits, those of weights all 64."""
    (tmp_path / "vgg.pth").write_text("weights")
    files = {name: FileRecord(bytes=1, sha256=SHA["page"]) for name in ("architecture.json", "notes.txt")}
    written = origin(inputs(files=files), **weights(tmp_path / "vgg.pth")).as_json()
    assert written["facts"] == {"dataset": {"architecture.json": SHA["page"][:16]}}
    assert written["inputs"] == {"dataset": hashlib.sha256(b"{}").hexdigest()[:16]}
    assert written["teacher"]["reconstruction"]["weights"] == {"sha256": SHA["weights"]}
    assert written["length"] == {"epochs": 4, "decay_epochs": 2, "goes_on_from": []}


def test_weights_of_a_loss_of_weight_0_do_not_count(tmp_path: Path) -> None:
    none = origin(**weights("one.pth", weight=0)).digest()
    assert origin(**weights("s3://cat/nowhere.pth", weight=0)).digest() == none
    assert origin(**weights("one.pth")).digest() != none


def test_a_checkpoint_without_a_length_of_its_own_is_read(tmp_path: Path) -> None:
    """So wrote earlier versions, with weights by address, and settings under their old names."""
    (tmp_path / "vgg.pth").write_text("weights")
    now = origin(**weights(tmp_path / "vgg.pth"))
    config = validate(TeacherConfig, {"epochs": 4, "decay_epochs": 2, **weights(tmp_path / "vgg.pth")}, where="teacher")
    section = config.model_dump(mode="json", exclude={"patience", "time_limit_seconds", "goes_on_from"})
    old = {"teacher": section, "inputs": now.as_json()["inputs"]}
    assert now.read(old) == now.as_json()
    section["adversarial"] = {"kind": "lsgan", "weight": 1.0}
    old["teacher"] = {name: value for name, value in section.items() if name != "adversarial"}
    assert now.read({**old, "teacher": {**old["teacher"], "gan_objective": "lsgan", "log_seconds": 3}}) == now.as_json()
    assert now.read(now.as_json()) == now.as_json()
    assert now.other_code == set()
    assert now.read({**now.as_json(), "code": "another"}) == now.as_json()
    assert now.other_code == {"another"}


@given(
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.lists(st.integers(1, 10**6), max_size=4, unique=True).map(sorted).map(tuple),
)
def test_the_name_of_a_length_is_read_back(epochs: int, decay_epochs: int, earlier: tuple[int, ...]) -> None:
    length = Length(epochs, decay_epochs, earlier)
    assert Length.named(length.name) == length
    assert Length.of(length.as_json()) == length
    assert length.as_json() == {"epochs": epochs, "decay_epochs": decay_epochs, "goes_on_from": [*earlier]}
    assert length.total == epochs + decay_epochs
    assert length.on_from_here == (*earlier, epochs + decay_epochs)


def test_the_length_of_a_section_is_read() -> None:
    assert Length.of({"epochs": 3, "decay_epochs": 1, "seed": 5}) == Length(3, 1, ())
    assert Length.of({"epochs": 3, "decay_epochs": 1, "goes_on_from": [2]}) == Length(3, 1, (2,))


@pytest.mark.parametrize("name", ["", "4", "4+", "4+2-after-", "4+2-after-x", "step-000000001.pt", "4+2x", "-4+2"])
def test_other_names_are_no_length(name: str) -> None:
    assert Length.named(name) is None
