"""Budgets in milliseconds of a run: which table they are compared with, and that its content is part of the key."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.__main__ import main as stages_main
from components.catlib.config import Recipe
from components.catlib.errors import UserError
from components.catlib.latency.table import LatencyTable
from components.catlib.networks.families import architecture_from_config
from components.catlib.recipes import load_recipe
from components.prune import latency
from pipelines.__main__ import main
from pipelines.latency_tables import check_table, with_own_table
from tests.components.catlib.latency.tables import table, written


def made_up(recipe: Recipe, device: str = "a phone") -> LatencyTable:
    size = recipe.dataset.crop_size
    teacher = architecture_from_config(recipe.teacher.generator, **recipe.dataset.channels, crop_size=size)
    return table(teacher, size, lambda kind, read, out: 0.01 + 1e-4 * read * out).model_copy(update={"device": device})


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("phone") / "table.json", made_up(load_recipe("smoke")))


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collects what is measured, which takes no time here, and keeps it in a folder of the test."""
    calls: list[Any] = []

    def measure(students: latency.Students, threads: int) -> LatencyTable:
        calls.append((students, threads))
        return made_up(load_recipe("smoke"))

    monkeypatch.setattr(latency.Students, "measure", measure)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return calls


def test_the_tables_digest_is_part_of_the_prune_stages_key(phone: Path, tmp_path: Path) -> None:
    digests = []
    for device in ("a phone", "another"):
        copy = written(tmp_path / "table.json", made_up(load_recipe("smoke"), device))
        command = ["compile", "--recipe", "smoke", "--budget", "1ms,0.5x", "--output", str(tmp_path / "p.yaml")]
        assert main([*command, "--set", f"prune.latency_table.uri={copy}"]) == 0
        root = next(yaml.safe_load_all((tmp_path / "p.yaml").read_text()))["root"]
        defaults = root["inputDefinitions"]["parameters"]
        assert defaults["budgets"]["defaultValue"] == ["1ms", "0.5x"]
        digests.append(defaults["prune"]["defaultValue"]["latency_table"]["sha256"])
        assert digests[-1] == hashlib.sha256(copy.read_bytes()).hexdigest()
    assert digests[0] != digests[1]


def test_validate_names_the_table_and_its_device(phone: Path, tmp_path: Path, capsys: Any) -> None:
    command = ["validate", "--recipe", "smoke", "--workspace", str(tmp_path)]
    given = ["--set", f"prune.latency_table.uri={phone}"]
    assert main([*command, "--budget", "1ms", *given]) == 0
    assert f"student 1ms: by the latency table {phone} (a phone, made up 1.0, 1 thread)" in capsys.readouterr().out
    assert main([*command, "--budget", "0.01ms", *given]) == 2
    assert "Budget 0.01ms cannot be reached: on a phone" in capsys.readouterr().err


def test_validate_measures_nothing(measured: list[Any], tmp_path: Path, capsys: Any) -> None:
    assert main(["validate", "--recipe", "smoke", "--workspace", str(tmp_path), "--budget", "1ms"]) == 0
    assert "that the run measures first, on this machine with one thread" in capsys.readouterr().out
    assert measured == []


def test_a_run_measures_this_machine_once(measured: list[Any], tmp_path: Path) -> None:
    said: list[str] = []
    recipe = load_recipe("smoke", budgets=["1ms"])
    changed = with_own_table(recipe, "compress", {}, measure=True, say=said.append)
    assert changed.prune.latency_table
    path = Path(changed.prune.latency_table.uri)
    assert path.parent == tmp_path / "cache" / "cat-pipeline" / "latency"
    assert json.loads(path.read_text())["device"] == "a phone"
    assert len(said) == len(measured) == 1
    assert with_own_table(recipe, "compress", {}, measure=True, say=said.append) == changed
    assert len(said) == len(measured) == 1
    check_table(changed, "compress")
    # Other students have another table; a budget that is an argument needs one, too.
    other = load_recipe("smoke", ["teacher.generator.num_blocks=1"])
    changed = with_own_table(other, "sweep", {"budgets": ["0.5x", "1ms"]}, measure=True, say=said.append)
    assert changed.prune.latency_table and changed.prune.latency_table.uri != str(path)
    assert len(measured) == 2


def test_what_needs_no_table_stays_as_it_is(measured: list[Any], phone: Path) -> None:
    plain = load_recipe("smoke", budgets=["0.5x"])
    given = load_recipe("smoke", [f"prune.latency_table.uri={phone}"], ["1ms"])
    for recipe, pipeline in ((plain, "compress"), (given, "compress"), (load_recipe("smoke"), "evaluate-only")):
        assert with_own_table(recipe, pipeline, {}, measure=True) == recipe
    assert measured == []


def test_students_whose_layers_are_unknown_are_refused_with_the_command(measured: list[Any]) -> None:
    recipe = load_recipe("smoke", budgets=["1ms"])
    with pytest.raises(UserError, match=r"is a state dict, .* `python -m components measure-latency --teacher"):
        with_own_table(recipe, "distill-only", {"teacher": "https://a.org/latest_net_G.pth"}, measure=True)
    published = load_recipe("smoke", ["teacher.published.generator.uri=a.pth"], ["1ms"])
    with pytest.raises(UserError, match=r"measure the table of an artifact, with --teacher"):
        with_own_table(published, "compress", {}, measure=True)


def test_the_table_of_label_maps_covers_a_plane_of_edges_that_only_the_data_shows() -> None:
    students = latency.Students.of_recipe(load_recipe("demo-labels"))
    assert (students.thinnest.in_channels, students.widest.in_channels) == (32, 33)
    assert students.rewrites == ()


def test_the_command_writes_a_table(measured: list[Any], tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "new" / "table.json"
    command = ["measure-latency", "--recipe", "smoke", "--threads", "2", "--output", str(path), "--json"]
    assert stages_main(command) == 0
    assert json.loads(capsys.readouterr().out)["output"] == str(path)
    assert json.loads(path.read_text())["format"] == 1
    ((students, threads),) = measured
    assert (threads, students.size, len(students.rewrites)) == (2, (32, 32), 5)


@pytest.mark.slow  # a whole run, and the measurement of a table
def test_a_budget_in_milliseconds_from_the_command_line_to_the_report(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    command = ["run", "--recipe", "smoke", "--budget", "0.4ms", "--workspace", str(tmp_path / "runs")]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    assert "budget 0.400 ms, predicted" in (tmp_path / "out" / "report.html").read_text()
    (found,) = (tmp_path / "runs" / "artifacts").rglob("pruning.json")
    described = json.loads(found.read_text())["latency"]
    (kept,) = (tmp_path / "cache" / "cat-pipeline" / "latency").iterdir()
    assert described["table_sha256"] == hashlib.sha256(kept.read_bytes()).hexdigest()
    assert described["predicted"] <= 0.4
