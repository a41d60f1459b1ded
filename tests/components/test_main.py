"""Stages as commands: folders and object-store addresses, reuse, exit codes."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.__main__ import _parser, main
from components.catlib import artifacts, code_digest
from components.catlib.config import DatasetConfig, Pix2PixConfig, PruneConfig, RealStatsConfig, Recipe
from components.catlib.recipes import load_recipe
from components.catlib.storage import Storage
from components.stages import STAGES
from tests.object_stores import COMPLETE, SECRET_KEY, SeaweedServer
from tests.web_servers import web_server

SMALL = ["--set", "dataset.load_size=16", "--set", "dataset.crop_size=16"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Pairs of images side by side."""
    for number, split in enumerate(["train"] * 4 + ["test"] * 2):
        folder = tmp_path / "images" / split
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (16, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "images"


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    with artifacts.writing(tmp_path / "teacher", kind="teacher", config=Pix2PixConfig()) as writer:
        writer.write_json("weights.json", [1, 2])
    return tmp_path / "teacher"


@pytest.fixture
def prunings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts a quick stage in the place of prune; the list holds what each run was given."""
    runs: list[str] = []

    def run(config: PruneConfig, *, teacher: Path, budget: str, output: Path) -> None:
        runs.append(budget)
        inputs = {"teacher": artifacts.read_manifest(teacher, "teacher")}
        with artifacts.writing(output, kind="prune", config=config, inputs=inputs) as writer:
            writer.write_json("pruning.json", {"budget": budget, "from": (teacher / "weights.json").read_text()})
            writer.summary["metrics"] = {"budget": float(budget)}

    replace_stage(monkeypatch, "prune", run)
    return runs


def replace_stage(monkeypatch: pytest.MonkeyPatch, name: str, run: Callable[..., None]) -> None:
    monkeypatch.setitem(STAGES, name, dataclasses.replace(STAGES[name], load=lambda: run))


def use(store: SeaweedServer, monkeypatch: pytest.MonkeyPatch) -> Storage:
    for variable, value in store.environment.items():
        monkeypatch.setenv(variable, value)
    return Storage(store.environment, patience=5)


def answer(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out)


def run_command(*arguments: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "components", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_stage_of_a_recipe_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    sections = {"dataset", "real_stats", "teacher", "prune", "distill", "evaluate", "export", "report", "publish"}
    assert {stage.section for stage in STAGES.values()} == sections
    for name, stage in STAGES.items():
        with pytest.raises(SystemExit) as exit_:
            main([name, "--help"])
        assert exit_.value.code == 0
        text = capsys.readouterr().out
        assert all(given.flag in text for given in stage.inputs)
        assert "--output URI" in text
        model = Recipe.model_fields.get(stage.section)
        settings_ = model.default.model_dump() if model else {}
        assert all(f"  {stage.section}.{key}" in text for key in settings_)


def test_the_help_of_dataset_tells_a_stranger_what_to_type(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["dataset", "--help"])
    text = capsys.readouterr().out
    for words in ("dataset.load_size=[286, 286]", 'dataset.on_error="fail"', "(fail or skip)"):
        assert words in " ".join(text.split())
    examples = re.findall(r"python -m components (dataset .*)", text.partition("examples:")[2])
    assert len(examples) >= 3
    for example in examples:
        options = _parser().parse_args(example.split())
        load_recipe(options.recipe, options.set)


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        ("real_stats", ("real_stats.published.uri", "distances are not FID", "SHA-256 is checked before")),
        (
            "evaluate",
            ("evaluate.segmenter.weights.uri", "evaluate.lpips.backbone", "confidence intervals and protocol"),
        ),
    ],
)
def test_the_help_of_metrics_tells_a_stranger_what_to_type(
    stage: str, told: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([stage, "--help"])
    text = capsys.readouterr().out
    assert all(words in " ".join(text.split()) for words in told)
    examples = re.findall(rf"python -m components ({stage.replace('_', '-')} .*)", text.partition("examples:")[2])
    assert len(examples) >= 3
    for example in examples:
        options = _parser().parse_args(example.split())
        load_recipe(options.recipe, options.set)


@pytest.mark.parametrize("output", ["", "https://host/x", "file:///tmp/x", "s3://"])
def test_an_output_that_is_no_place_is_refused_before_anything_is_done(
    images: Path, output: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert main(["dataset", "--source", str(images), "--output", output]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert list(tmp_path.joinpath("empty").iterdir()) == []


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("teacher", "is --teacher"),
        ("link", "is --teacher"),
        ("teacher/student", "lies in --teacher"),
        ("teacher/../teacher/a/b", "lies in --teacher"),
        (".", "holds --teacher"),
    ],
)
def test_an_output_never_replaces_an_input(
    teacher: Path,
    prunings: list[str],
    output: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "link").symlink_to(teacher)
    monkeypatch.chdir(tmp_path)
    assert main(["prune", "--teacher", str(teacher), "--budget", "1e9", "--output", output]) == 2
    assert f"--output {output} {words} {teacher}" in capsys.readouterr().err
    assert prunings == []
    assert artifacts.read_manifest(teacher, "teacher")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "teacher"]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("minio://cat/own/teacher/", "is --teacher"),
        ("s3://cat/own/teacher/student", "lies in --teacher"),
        ("s3://cat/own", "holds --teacher"),
    ],
)
def test_an_output_in_the_store_never_replaces_an_input(
    object_store: SeaweedServer,
    prunings: list[str],
    output: str,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(object_store, monkeypatch)
    assert main(["prune", "--teacher", "s3://cat/own/teacher", "--budget", "1e9", "--output", output]) == 2
    assert f"--output {output} {words} s3://cat/own/teacher" in capsys.readouterr().err
    assert prunings == []


@pytest.mark.parametrize(("output", "words"), [("images", "is"), (".", "holds")])
def test_an_output_never_replaces_its_images_or_weights(
    images: Path,
    output: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for given in (["--source", "images"], ["--set", f"dataset.source={images}"]):
        assert main(["dataset", *given, *SMALL, "--output", output]) == 2
        assert f"--output {output} {words} {given[1].removeprefix('dataset.source=')}" in capsys.readouterr().err
    assert main(["dataset", "--source", "images", *SMALL, "--output", "images/packed"]) == 0
    assert artifacts.read_manifest(images / "packed", "dataset")


def test_a_training_keeps_its_state_outside_its_output(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["teacher", "--dataset", str(teacher), "--real-stats", str(teacher), "--output", str(tmp_path / "out")]
    assert main([*command, "--checkpoint", str(tmp_path / "out" / "state")]) == 2
    assert f"--output {tmp_path}/out holds --checkpoint {tmp_path}/out/state" in capsys.readouterr().err


def test_an_output_of_another_kind_is_refused_before_anything_is_computed(
    teacher: Path, prunings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(teacher, tmp_path / "earlier")
    assert main(["prune", "--teacher", str(teacher), "--budget", "1e9", "--output", str(tmp_path / "earlier")]) == 2
    assert "earlier is a teacher artifact, not replaced by a prune artifact" in capsys.readouterr().err
    assert prunings == []
    assert artifacts.read_manifest(tmp_path / "earlier", "teacher")


def test_an_output_of_another_kind_in_the_store_is_refused_before_anything_is_computed(
    object_store: SeaweedServer,
    teacher: Path,
    prunings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = use(object_store, monkeypatch)
    store.publish(teacher, "s3://cat/kinds/teacher")
    command = ["prune", "--teacher", str(teacher), "--budget", "1e9", "--output", "s3://cat/kinds/teacher"]
    assert main(command) == 2
    assert "s3://cat/kinds/teacher is a teacher artifact, not replaced by a prune" in capsys.readouterr().err
    assert prunings == []
    assert store.manifest("s3://cat/kinds/teacher", "teacher") == artifacts.read_manifest(teacher)


def test_new_images_in_the_local_copy_of_a_known_dataset_are_packed(
    images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(images, "datasets/maps")
    for new, reused in (("", False), ("", True), ("new.png", False)):
        if new:
            shutil.copy("datasets/maps/train/0.png", f"datasets/maps/train/{new}")
        assert main(["dataset", "--source", "maps", *SMALL, "--output", "packed", "--json"]) == 0
        assert answer(capsys)["reused"] == reused


def test_stages_take_and_give_store_addresses(
    object_store: SeaweedServer, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(object_store, monkeypatch)
    made = run_command(
        *("dataset", *SMALL, "--source", str(images), "--output", "s3://cat/main/dataset", "--json"),
        environment=object_store.environment,
    )
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["reused"] is False
    measured = run_command(
        *("real-stats", "--dataset", "s3://cat/main/dataset", "--output", str(tmp_path / "statistics")),
        environment=object_store.environment,
    )
    assert measured.returncode == 0, measured.stderr
    assert (tmp_path / "statistics" / "real_stats.npz").is_file()
    assert SECRET_KEY not in made.stdout + made.stderr + measured.stdout + measured.stderr


def test_source_images_may_lie_in_the_store(
    object_store: SeaweedServer, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = use(object_store, monkeypatch)
    for path in images.rglob("*.png"):
        store.upload_file(path, f"s3://cat/raw/{path.relative_to(images)}")
    assert main(["dataset", *SMALL, "--source", "s3://cat/raw", "--output", str(tmp_path / "dataset")]) == 0
    manifest = artifacts.read_manifest(tmp_path / "dataset", "dataset")
    assert manifest.summary["images"]["train"] == {"source": 4, "target": 4}


@pytest.mark.parametrize("where", ["folder", "store"])
def test_the_same_request_is_answered_once(
    where: str,
    object_store: SeaweedServer,
    teacher: Path,
    prunings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    use(object_store, monkeypatch)
    output = "s3://cat/reuse/student" if where == "store" else str(tmp_path / "student")
    arguments = ["prune", "--teacher", str(teacher), "--output", output, "--json"]
    for changes, reused in [
        (["--budget", "2e9"], False),
        (["--budget", "2e9"], True),
        (["--budget", "3e9"], False),
        (["--budget", "3e9", "--set", "prune.min_channels=4"], False),
        (["--budget", "3e9", "--set", "prune.min_channels=4", "--set", "teacher.epochs=3"], True),
    ]:
        assert main(arguments + changes) == 0
        given = answer(capsys)
        assert given["reused"] is reused
        assert given["metrics"] == {"budget": float(changes[1])}
    assert len(prunings) == 3
    assert Storage().manifest(output, "prune").config["min_channels"] == 4


def test_another_input_is_another_request(
    teacher: Path, prunings: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["prune", "--teacher", str(teacher), "--budget", "2e9", "--output", str(tmp_path / "student")]
    assert main(arguments) == 0
    with artifacts.writing(teacher, kind="teacher", config=Pix2PixConfig()) as writer:
        writer.write_json("weights.json", [3])
    assert main(arguments) == 0
    assert len(prunings) == 2


def test_changed_source_images_are_packed_again(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["dataset", *SMALL, "--source", str(images), "--output", str(tmp_path / "dataset"), "--json"]
    seen = []
    for _ in range(2):
        assert main(arguments) == 0
        seen.append(answer(capsys)["reused"])
    (images / "train" / "0.png").unlink()
    assert main(arguments) == 0
    assert [*seen, answer(capsys)["reused"]] == [False, True, False]


def test_times_and_places_of_source_images_do_not_count(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = str(tmp_path / "dataset")
    seen = []
    for place in (images, images, shutil.copytree(images, tmp_path / "colleague/pictures")):
        assert main(["dataset", *SMALL, "--source", str(place), "--output", packed, "--json"]) == 0
        seen.append(answer(capsys)["reused"])
        for path in images.rglob("*"):
            os.utime(path, (1, 1))
    assert seen == [False, True, True]
    assert main(["dataset", *SMALL, "--set", f"dataset.source={images}", "--output", packed, "--json"]) == 0
    assert answer(capsys)["reused"] is True


@pytest.fixture
def measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Puts a quick stage in the place of real-stats; these are its arguments, but for the weights."""

    def run(config: RealStatsConfig, *, dataset: Path, output: Path) -> None:
        with artifacts.writing(output, kind="real_stats", config=config):
            pass

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    replace_stage(monkeypatch, "real-stats", run)
    with artifacts.writing(tmp_path / "dataset", kind="dataset", config=DatasetConfig()):
        pass
    places = ["--dataset", str(tmp_path / "dataset"), "--output", str(tmp_path / "out")]
    return ["real-stats", *places, "--json", "--set", "real_stats.features=inception", "--set"]


@pytest.mark.parametrize("where", ["path", "web", "store"])
def test_other_weights_under_the_same_address_are_another_request(
    where: str,
    measuring: list[str],
    object_store: SeaweedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = use(object_store, monkeypatch)
    weights, seen = tmp_path / "w.pth", []
    with web_server() as server:
        address = {"path": str(weights), "web": server.url("/w.pth"), "store": "s3://cat/weights/w.pth"}[where]
        for content in (b"1", b"1", b"2"):
            weights.write_bytes(content)
            os.utime(weights, (1, 1))
            server.files["/w.pth"], server.etags["/w.pth"] = content, f'"{content.decode()}"'
            store.upload_file(weights, "s3://cat/weights/w.pth")
            assert main([*measuring, f"real_stats.weights.uri={address}"]) == 0
            seen.append(answer(capsys)["reused"])
    assert seen == [False, True, False]


def test_weights_with_a_digest_count_by_it_alone(measuring: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    for address, digit in (("http://127.0.0.1:1/a.pth", "0"), ("elsewhere/b.pth", "0"), ("elsewhere/b.pth", "1")):
        assert main([*measuring, f"real_stats.weights={{uri: '{address}', sha256: '{digit * 64}'}}"]) == 0
        seen.append(answer(capsys)["reused"])
    assert seen == [False, True, False]


def test_unknown_content_is_said_with_the_setting_that_pins_it(
    measuring: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*measuring, "real_stats.weights.uri=http://127.0.0.1:1/w.pth"]) == 0
    assert "give real_stats.weights.sha256 another value" in capsys.readouterr().err


@pytest.mark.parametrize(("changed", "reused"), [("torch", False), ("pillow", True)])
def test_another_version_of_a_library_that_computes_is_another_request(
    changed: str,
    reused: bool,
    teacher: Path,
    prunings: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["prune", "--teacher", str(teacher), "--budget", "2e9", "--output", str(tmp_path / "out"), "--json"]
    assert main(arguments) == 0
    installed = code_digest._version
    monkeypatch.setattr(code_digest, "_version", lambda name: "0.0" if name == changed else installed(name))
    capsys.readouterr()
    assert main(arguments) == 0
    assert answer(capsys)["reused"] is reused


def test_an_interrupted_stage_publishes_nothing_and_says_so(
    object_store: SeaweedServer,
    teacher: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = use(object_store, monkeypatch)

    def run(config: PruneConfig, *, output: Path, **_: object) -> None:
        with artifacts.writing(output, kind="prune", config=config):
            os.kill(os.getpid(), signal.SIGTERM)

    replace_stage(monkeypatch, "prune", run)
    arguments = ["prune", "--teacher", str(teacher), "--budget", "1e9", "--output", "s3://cat/interrupted"]
    earlier = signal.getsignal(signal.SIGTERM)
    assert main(arguments) == 75
    assert signal.getsignal(signal.SIGTERM) == earlier
    assert "interrupted" in capsys.readouterr().err
    assert store.fingerprint("s3://cat/interrupted") == []


def test_a_stage_whose_memory_runs_out_names_the_setting(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 17179869184 bytes.")

    replace_stage(monkeypatch, "prune", run)
    assert main(["prune", "--teacher", str(teacher), "--budget", "1e9", "--output", str(tmp_path / "student")]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: Stage prune ran out of memory (DefaultCPUAllocator: can't allocate memory")
    assert "raise resources.stages.prune.memory" in last


@pytest.mark.parametrize(
    "wrong",
    [
        ["--student", "s3://Bad_Bucket/student"],
        ["--teacher", "s3://127.0.0.1/teacher"],
        ["--output", "s3://UPPER/out"],
        ["--set", "evaluate.segmenter.weights.uri=s3://xn--bucket/weights"],
    ],
)
def test_a_bad_bucket_is_a_sentence_before_any_request(
    wrong: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("components.catlib.storage.connecting.connections", None)  # so a request would be an error
    given = {name: f"s3://cat/{name}" for name in ("--student", "--dataset", "--real-stats", "--output")}
    flag, value = wrong
    arguments = [each for pair in ({**given, flag: value}).items() for each in pair]
    assert main(["evaluate", *arguments]) == 2
    assert "names the bucket" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["prune", "--teacher", "TEACHER", "--output", "out"], "prune needs a compute budget"),
        (["prune", "--teacher", "nowhere", "--budget", "1e9", "--output", "out"], "There is no folder nowhere"),
        (["real-stats", "--dataset", "TEACHER", "--output", "out"], "is a teacher artifact, expected a dataset"),
        (["real-stats", "--dataset", "s3://cat/none", "--output", "out"], "S3_ENDPOINT"),
        (["dataset", "--recipe", "smok", "--output", "out"], "did you mean 'smoke'"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    complaint: str,
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("S3_ENDPOINT", raising=False)
    assert main([str(teacher) if word == "TEACHER" else word for word in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert complaint in error
    assert not (tmp_path / "out").exists()


def test_buckets_and_links_are_commands(
    object_store: SeaweedServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use(object_store, monkeypatch)
    assert main(["make-bucket", "s3://fresh", "--json"]) == 0
    assert answer(capsys) == {"bucket": "s3://fresh", "created": True}
    assert main(["link", "s3://fresh/report.html", "--days", "1"]) == 0
    assert capsys.readouterr().out.startswith(f"{object_store.endpoint}/fresh/report.html?")
    assert main(["link", "s3://fresh/report.html", "--endpoint", "https://nowhere.invalid:1"]) == 0, "it is not asked"
    assert capsys.readouterr().out.startswith("https://nowhere.invalid:1/fresh/report.html?")
    assert main(["link", "s3://fresh/report.html", "--endpoint", "nowhere"]) == 2
    assert "The endpoint of a link must be of the form http://HOST:PORT" in capsys.readouterr().err
