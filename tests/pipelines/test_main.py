"""The pipeline's command line, without running stages."""

import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

from components.catlib import artifacts
from components.catlib.code_digest import code_digest
from components.catlib.config import Recipe, ReportConfig
from components.catlib.recipes import RECIPE_FOLDER, load_recipe, recipe_names, recipe_origin
from pipelines import api, local
from pipelines.__main__ import main
from pipelines.versions import dataset_version
from tests.components.catlib.data.image_folders import cityscapes


def test_recipes_are_listed_with_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listing = capsys.readouterr().out
    assert "demo " in listing
    assert "smoke " in listing


def test_compile_writes_a_file_with_the_overrides_as_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "p.yaml"
    arguments = ["compile", "--recipe", "smoke", "--set", "teacher.epochs=7", "--budget", "2.6e9", "0.1x"]
    assert main([*arguments, "--image", "mine:1", "--output", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"output": str(path)}
    spec = next(yaml.safe_load_all(path.read_text()))
    defaults = spec["root"]["inputDefinitions"]["parameters"]
    assert defaults["teacher"]["defaultValue"]["epochs"] == 7
    assert defaults["budgets"]["defaultValue"] == ["2.6e+09", "0.1x"]
    assert {task["container"]["image"] for task in spec["deploymentSpec"]["executors"].values()} == {"mine:1"}


def test_a_compiled_file_holds_the_code_and_the_weights_so_that_runs_from_the_form_do(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"weights")
    weights = ["--set", f"evaluate.lpips.weights.uri={tmp_path}/w.pth"]
    assert main(["compile", "--recipe", "smoke", *weights, "--output", str(tmp_path / "p.yaml")]) == 0
    root = next(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))["root"]
    code = root["dag"]["tasks"]["train-teacher"]["inputs"]["parameters"]["code_digest"]
    assert code == {"runtimeValue": {"constant": code_digest("teacher")}}
    pinned = root["inputDefinitions"]["parameters"]["evaluate"]["defaultValue"]["lpips"]["weights"]
    assert pinned["sha256"] == hashlib.sha256(b"weights").hexdigest()


def test_a_compiled_file_holds_the_version_of_the_images_so_that_runs_from_the_form_do(tmp_path: Path) -> None:
    images, versions = tmp_path / "images", []
    images.mkdir()
    for content in (b"1", b"2"):
        (images / "a.png").write_bytes(content)
        file = tmp_path / "p.yaml"
        command = ["compile", "--recipe", "smoke", "--set", f"dataset.source={images}", "--output", str(file)]
        assert main(command) == 0
        root = next(yaml.safe_load_all(file.read_text()))["root"]
        versions.append(root["inputDefinitions"]["parameters"]["source_version"]["defaultValue"])
    assert versions[0] != versions[1]
    recipe = load_recipe("smoke", [f"dataset.source={images}"])
    assert versions[1] == dataset_version(recipe), "submit gives the same, so both share the cache"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--recipe", "nosuch"], "There is no recipe 'nosuch'"),
        (["run", "--recipe", "smoke", "--set", "teacher.epoch=1"], "did you mean 'epochs'"),
        (["run", "--recipe", "smoke", "--budget", "lots"], "'lots' is not a compute budget"),
        (["run", "--recipe", "smoke", "--budget", "0.5x", "1000"], "Budget 1000 (1000 MACs) cannot be reached"),
        (["run", "--recipe", "smoke", "--set", "prune.min_channels=9"], "prune.min_channels is 9"),
        (["compile", "--recipe", "smoke", "--budget", "0.5x,1ms", "--output", "x.yaml"], "Budget 1ms needs a table of"),
        (
            ["submit", "--recipe", "smoke", "--budget", "1ms", "--host", "http://127.0.0.1:1", "--image", "a/b:1"],
            "`python -m components measure-latency --recipe RECIPE --output table.json`",
        ),
        (
            ["run", "--recipe", "smoke", "--budget", "1ms", "--set", "prune.latency_table.uri=missing.json"],
            "Latency table missing.json cannot be read",
        ),
        (
            ["run", "--recipe", "smoke", "--set", "prune.generator=target_to_source"],
            "pix2pix has only source_to_target",
        ),
        (["run", "--recipe", "smoke", "--set", "teacher.generator.norm.affine=false"], "have no scales to prune by"),
        (["run", "--recipe", "demo-labels", "--set", "prune.min_channels=99"], "prune.min_channels is 99"),
        (
            ["run", "--recipe", "demo-labels", "--set", "prune.student_padding=zero"],
            "does not apply to a generator of family inception_spade",
        ),
        (["run", "--recipe", "smoke", "--argument", "budgets=[0.001x]"], "cannot be reached: the smallest student"),
        (["compile", "--recipe", "smoke", "--output", "pipeline.json"], "must end in .yaml"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def equipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that shipped recipes name and nobody may carry; the digests of the weights are not looked at."""
    cityscapes(tmp_path / "datasets/cityscapes")
    (tmp_path / "weights").mkdir()
    for name in ("pt_inception-2015-12-05-6726825d.pth", "vgg19-dcbb9e9d.pth"):
        (tmp_path / "weights" / name).write_bytes(b"weights")
    monkeypatch.setattr("pipelines.preflight._file_here", lambda *_: iter(()))
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("equipped")
@pytest.mark.parametrize("recipe", ["smoke", "demo", "demo-unpaired", "map2sat", "horse2zebra"])
def test_the_budgets_that_a_refusal_names_are_accepted(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--recipe", recipe, "--budget", "1000"]) == 2
    macs, share = re.findall(r"smallest student has (\d+) MACs, ([\d.]+x)", capsys.readouterr().err)[0]
    assert main(["validate", "--recipe", recipe, "--budget", macs, share]) == 0
    assert main(["validate", "--recipe", recipe, "--budget", str(int(macs) - 1)]) == 2


@pytest.mark.usefixtures("equipped")
@pytest.mark.parametrize("recipe", ["demo-labels", "cityscapes-gaugan-30g"])
def test_budgets_for_label_maps_are_checked_when_their_planes_are_known(recipe: str) -> None:
    assert main(["validate", "--recipe", recipe, "--budget", "1000"]) == 0


@pytest.mark.usefixtures("equipped")
@pytest.mark.parametrize("recipe", [name for name in recipe_names() if "gaugan" not in name])
def test_the_budgets_of_the_recipes_are_within_reach(recipe: str) -> None:
    assert main(["validate", "--recipe", recipe]) == 0


LPIPS = "evaluate.lpips={backbone: alex, weights: {uri: HERE}}"


@pytest.mark.parametrize(
    ("changes", "said", "then"),
    [
        (["dataset.crop_size=30"], "set dataset.crop_size to [28,28]", ["dataset.crop_size=[28,28]"]),
        (
            ["dataset.crop_size=28", LPIPS],
            "set dataset.crop_size and dataset.load_size to 32 or more",
            ["dataset.crop_size=32", "dataset.load_size=32"],
        ),
        (
            ["teacher.discriminator.num_layers=5"],
            "set dataset.crop_size to at least 96, and dataset.load_size to no less",
            ["dataset.crop_size=96", "dataset.load_size=96"],
        ),
        (
            ["prune.generator=target_to_source"],
            "has only source_to_target; set prune.generator to that",
            ["prune.generator=source_to_target"],
        ),
    ],
)
def test_what_no_network_takes_is_refused_before_a_run(
    changes: list[str], said: str, then: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w.pth").write_bytes(b"weights")
    settings = [change.replace("HERE", str(tmp_path / "w.pth")) for change in changes]

    def validate(*more: str) -> int:
        return main(
            ["validate", "--recipe", "smoke", *(word for each in [*settings, *more] for word in ("--set", each))]
        )

    assert validate() == 2
    assert said in capsys.readouterr().err
    assert validate(*then) == 0


def test_a_folder_of_something_else_is_no_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["run", "--recipe", "smoke", "--output", str(tmp_path), "--workspace", str(tmp_path / "w")]) == 2
    assert "exists and holds something else" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("output", ["w", "w/logs", "w/artifacts/x", "w/checkpoints", "w/cache/x", "."])
def test_a_run_never_replaces_its_own_workspace(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "here"
    command = ["run", "--recipe", "smoke", "--output", str(place / output), "--workspace", str(place / "w")]
    assert main(command) == 2
    assert "belongs to the workspace" in capsys.readouterr().err
    assert not place.exists()


def report(folder: Path, recipe: Path | str = "") -> Path:
    """Leaves the results of a run in a folder, as a run of a recipe does."""
    with artifacts.writing(folder, kind="report", config=ReportConfig(name="smoke")) as writer:
        (writer.folder / "report.html").write_text(f"{recipe}")
    if recipe:
        artifacts.stamp(folder, local._digest(recipe_origin(str(recipe))))
    return folder


def test_results_of_another_kind_are_no_place_for_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with artifacts.writing(tmp_path / "w" / "smoke", kind="teacher", config=ReportConfig()):
        pass
    for output in ([], ["--output", str(tmp_path / "w" / "smoke")]):
        assert main(["run", "--recipe", "smoke", "--workspace", str(tmp_path / "w"), *output]) == 2
        assert "smoke is a teacher artifact, not replaced by a report artifact" in capsys.readouterr().err
    assert artifacts.read_manifest(tmp_path / "w" / "smoke", "teacher")


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of a recipe under its own name, as a user makes one to change it."""
    copy = tmp_path / "recipes" / "smoke.yaml"
    copy.parent.mkdir()
    shutil.copyfile(RECIPE_FOLDER / "smoke.yaml", copy)
    return copy


def test_a_recipe_replaces_its_own_results(tmp_path: Path, copied: Path) -> None:
    said: list[str] = []
    for recipe in ("smoke", str(RECIPE_FOLDER / "smoke.yaml"), str(copied)):
        folder = report(tmp_path / recipe_origin(recipe).replace("/", "-"), recipe)
        assert local.own_folder(folder, recipe_origin(recipe), said.append) == folder
    assert local.own_folder(tmp_path / "new", recipe_origin("smoke"), said.append) == tmp_path / "new"
    assert local.own_folder(report(tmp_path / "of an earlier release"), "smoke", said.append).name.startswith("of an")
    assert said == []


def test_a_copied_recipe_gets_a_folder_of_its_own(tmp_path: Path, copied: Path) -> None:
    said: list[str] = []
    folder = report(tmp_path / "runs" / "smoke", "smoke")
    other = copied.with_name("mine.yaml")
    shutil.copyfile(copied, other)
    own = {local.own_folder(folder, recipe_origin(str(recipe)), said.append) for recipe in (copied, other)}
    assert len(own) == len(said) == 2
    assert folder not in own
    assert all(place.parent == folder.parent and place.name.startswith("smoke-") for place in own)
    assert f"{folder} holds results of another recipe of the same name; the results of {copied} go to " in said[0]


def test_the_default_folder_of_a_run_is_its_recipes_own(
    tmp_path: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs: list[Path] = []

    def run_locally(recipe: Recipe, *, origin: str, output: Path, **_: object) -> local.LocalRun:
        outputs.append(report(output, origin))
        return local.LocalRun(output, output, [], [], 0.0)

    monkeypatch.setattr(local, "run_locally", run_locally)
    for recipe in ("smoke", str(copied), "smoke", str(copied)):
        assert main(["run", "--recipe", recipe, "--workspace", str(tmp_path / "w")]) == 0
    assert outputs[:2] == outputs[2:]
    assert outputs[0] == tmp_path / "w" / "smoke" != outputs[1]
    api.run(load_recipe("smoke"), workspace=tmp_path / "w")
    assert outputs[4] not in outputs[:4], "a recipe without a file"


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile", "--output", "FILE/c.yaml"],
        ["run", "--workspace", "FILE/ws"],
        ["run", "--output", "FILE/out", "--workspace", "WORKSPACE"],
    ],
)
def test_places_that_cannot_be_written_are_a_sentence(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    command = [argument.replace("FILE", str(file)).replace("WORKSPACE", str(tmp_path)) for argument in arguments]
    assert main([command[0], "--recipe", "smoke", *command[1:]]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert str(file) in error
    assert "choose another" in error
    assert file.read_text() == "kept"
