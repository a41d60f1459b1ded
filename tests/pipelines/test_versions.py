"""What goes into Kubeflow's cache keys for the files behind a recipe's addresses."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.catlib.artifacts import read_manifest, writing
from components.catlib.config import Section
from components.catlib.errors import UserError
from components.catlib.recipes import load_recipe
from components.catlib.storage import Storage, local_artifact
from pipelines import versions
from pipelines.versions import check_pinned, content_version, dataset_version, pin_weights
from tests.object_stores import SeaweedServer, seaweed_server
from tests.web_servers import web_server


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    """A running S3 server with the bucket `cat`."""
    with seaweed_server(tmp_path_factory.mktemp("store") / "data") as server:
        Storage(server.environment).make_bucket("s3://cat")
        yield server


def test_a_version_changes_with_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    first = content_version([str(tmp_path)])
    assert first == content_version([str(tmp_path)])
    (tmp_path / "b.png").write_bytes(b"2")
    assert content_version([str(tmp_path)]) != first


def test_built_in_images_need_no_version_and_a_folder_has_one(tmp_path: Path) -> None:
    assert dataset_version(load_recipe("smoke")) == ""
    assert len(dataset_version(load_recipe("smoke", [f"dataset.source={tmp_path}"]))) == 12


def test_times_and_places_do_not_count_and_content_does(tmp_path: Path) -> None:
    for name in ("mine", "yours"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(b"1")
    mine, yours = str(tmp_path / "mine"), str(tmp_path / "yours")
    first = content_version([mine], here=True)
    os.utime(tmp_path / "mine/a.png", (1, 1))
    assert content_version([mine], here=True) == content_version([yours], here=True) == first
    (tmp_path / "mine/a.png").write_bytes(b"2")
    os.utime(tmp_path / "mine/a.png", (1, 1))
    assert content_version([mine], here=True) != first


@pytest.mark.parametrize("copy", ["datasets/horse2zebra", "horse2zebra"])
def test_local_copies_of_a_known_dataset_count_in_local_runs_alone(
    copy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / copy).mkdir(parents=True)
    recipe = load_recipe("horse2zebra")
    here, pods = dataset_version(recipe, here=True), dataset_version(recipe)
    (tmp_path / copy / "a.png").write_bytes(b"1")
    assert dataset_version(recipe) == pods != ""
    assert dataset_version(recipe, here=True) != here


def test_an_archive_with_a_digest_needs_no_version() -> None:
    recipe = load_recipe("smoke", ["dataset.source=https://nowhere.invalid/a.zip", f"dataset.sha256='{'0' * 64}'"])
    assert dataset_version(recipe) == ""


def test_an_unreachable_store_counts_as_unchanged_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("S3_ENDPOINT", raising=False)
    assert content_version(["s3://b/images"]) != content_version(["s3://b/others"])
    assert "counts as unchanged" in caplog.text
    assert "give source_version another value" in caplog.text


def test_weights_on_this_machine_are_pinned_and_given_digests_stay(tmp_path: Path) -> None:
    (tmp_path / "g.pth").write_bytes(b"weights")
    given = "0" * 64
    overrides = [
        f"teacher.published.generator.uri={tmp_path}/g.pth",
        f"teacher.published.discriminator={{uri: {tmp_path}/g.pth, sha256: '{given}'}}",
        "distill.reconstruction=vgg",
        "distill.reconstruction.weights.uri=s3://b/vgg.pth",
    ]
    pinned = pin_weights(load_recipe("smoke", overrides))
    assert pinned.teacher.published is not None
    assert pinned.teacher.published.generator is not None
    assert pinned.teacher.published.generator.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert pinned.teacher.published.discriminator is not None
    assert pinned.teacher.published.discriminator.sha256 == given
    assert pinned.distill.reconstruction.weights.sha256 is None


@pytest.mark.parametrize(
    "setting",
    [
        "real_stats.weights",
        "real_stats.published",
        "teacher.published.generator",
        "teacher.published.discriminator",
        "teacher.segmenter.weights",
        "teacher.perceptual.weights",
        "distill.published.generator",
        "distill.segmenter.weights",
        "distill.perceptual.weights",
        "evaluate.lpips.weights",
        "evaluate.segmenter.weights",
    ],
)
@pytest.mark.parametrize("where", ["web", "store"])
def test_weights_elsewhere_are_pinned_by_their_content_in_every_section(
    setting: str, where: str, object_store: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    found = []
    with web_server() as server:
        for content in (b"first", b"second"):
            (tmp_path / "file").write_bytes(content)
            server.files["/w.pth"] = content
            Storage(object_store.environment).upload_file(tmp_path / "file", "s3://cat/pins/w.pth")
            address = server.url("/w.pth") if where == "web" else "s3://cat/pins/w.pth"
            overrides = [f"{setting}.uri={address}", f"{setting}.sha256=null"]
            value = pin_weights(load_recipe("cityscapes-gaugan-5g6", overrides))
            for name in setting.split("."):
                value = getattr(value, name)
            found.append(value.sha256)
    assert found == [hashlib.sha256(content).hexdigest() for content in (b"first", b"second")]


@pytest.mark.parametrize("address", ["http://127.0.0.1:1/w.pth", "s3://cat/w.pth", "nowhere/w.pth"])
def test_weights_that_cannot_be_looked_up_are_named_with_their_setting(
    address: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(versions, "LOOKING_SECONDS", 0.1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("S3_ENDPOINT", raising=False)
    pinned = pin_weights(load_recipe("smoke", [f"evaluate.lpips.weights.uri={address}"]))
    assert pinned.evaluate.lpips is not None
    assert pinned.evaluate.lpips.weights.sha256 is None
    assert f"the content of {address} counts as unchanged" in caplog.text
    assert "give it as evaluate.lpips.weights.sha256" in caplog.text


def test_the_variations_of_a_sweep_are_pinned_and_servers_are_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "vgg.pth").write_bytes(b"weights")
    variation = f"{{reconstruction: {{kind: vgg, weights: {{uri: {tmp_path}/vgg.pth}}}}}}"
    recipe = load_recipe("smoke", [f"sweep.variations=[{variation}]", "tracking.uri=http://127.0.0.1:1/mlflow"])
    pinned = pin_weights(recipe)
    weights = pinned.sweep.variations[0]["reconstruction"]["weights"]
    assert weights["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert pinned.tracking == recipe.tracking
    assert caplog.text == ""


@pytest.mark.parametrize("image", ["cat:0.1.0", "host:5000/team/cat:1", "host:5000/cat@sha256:" + "0" * 64])
def test_pinned_images_pass(image: str) -> None:
    check_pinned(image)


@pytest.mark.parametrize("image", ["cat", "cat:latest", "host:5000/cat"])
def test_images_that_may_change_do_not(image: str) -> None:
    with pytest.raises(UserError, match="not pinned"):
        check_pinned(image)


def test_an_earlier_teacher_is_pinned_by_its_manifest(tmp_path: Path, object_store: SeaweedServer) -> None:
    """The same artifact counts as the same wherever it lies; another one at the same address does not."""

    def publish(text: str) -> str:
        with writing(tmp_path / "teacher", kind="teacher", config=Section()) as writer:
            (writer.folder / "architecture.json").write_text(text)
        Storage(object_store.environment).publish(tmp_path / "teacher", "s3://cat/teacher")
        return read_manifest(tmp_path / "teacher").digest()

    def pinned(address: object) -> object:
        start = pin_weights(load_recipe("smoke", [f"teacher.start_from={address}"])).teacher.start_from
        return start and start.sha256

    with pytest.MonkeyPatch.context() as patch:
        for name, value in object_store.environment.items():
            patch.setenv(name, value)
        first = publish("{}")
        assert pinned(tmp_path / "teacher") == pinned("s3://cat/teacher") == first
        assert read_manifest(local_artifact("s3://cat/teacher", "teacher")).digest() == first
        second = publish("{} ")
        assert pinned(tmp_path / "teacher") == pinned("s3://cat/teacher") == second != first


def test_an_earlier_teacher_out_of_reach_counts_as_unchanged(caplog: pytest.LogCaptureFixture) -> None:
    start = pin_weights(load_recipe("smoke", ["teacher.start_from=nowhere/teacher"])).teacher.start_from
    assert start is not None and start.sha256 is None
    assert "give it as teacher.start_from.sha256" in caplog.text


def test_a_published_generator_to_start_from_is_pinned_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "g.pth").write_bytes(b"weights")
    start = pin_weights(load_recipe("smoke", [f"teacher.start_from={tmp_path}/g.pth"])).teacher.start_from
    assert start is not None and start.sha256 == hashlib.sha256(b"weights").hexdigest()
