"""What goes into Kubeflow's cache keys for the files behind a recipe's addresses."""

import hashlib
from pathlib import Path

import pytest

from components.catlib.errors import UserError
from components.catlib.recipes import load_recipe
from pipelines.versions import check_pinned, content_version, dataset_version, pin_weights


def test_a_version_changes_with_the_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"1")
    first = content_version([str(tmp_path)])
    assert first == content_version([str(tmp_path)])
    (tmp_path / "b.png").write_bytes(b"2")
    assert content_version([str(tmp_path)]) != first


def test_built_in_images_need_no_version_and_a_folder_has_one(tmp_path: Path) -> None:
    assert dataset_version(load_recipe("smoke")) == ""
    assert len(dataset_version(load_recipe("smoke", [f"dataset.source={tmp_path}"]))) == 12


def test_an_unreachable_store_counts_as_unchanged_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("S3_ENDPOINT", raising=False)
    assert content_version(["s3://b/images"]) != content_version(["s3://b/others"])
    assert "counts as unchanged" in caplog.text


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


@pytest.mark.parametrize("image", ["cat:0.1.0", "host:5000/team/cat:1", "host:5000/cat@sha256:" + "0" * 64])
def test_pinned_images_pass(image: str) -> None:
    check_pinned(image)


@pytest.mark.parametrize("image", ["cat", "cat:latest", "host:5000/cat"])
def test_images_that_may_change_do_not(image: str) -> None:
    with pytest.raises(UserError, match="not pinned"):
        check_pinned(image)
