"""A grid of more students than a sweep makes: sweeps one after another, each compared with those before."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from components.catlib.artifacts import writing
from components.catlib.config import ReportConfig
from components.catlib.errors import UserError
from components.catlib.recipes import load_recipe
from pipelines import api, local
from pipelines.__main__ import main

GRID = ["--pipeline", "sweep", "--set", f"sweep.seeds={list(range(13))}"]
"""Two variations with 13 seeds: 26 students."""


STUDENT: dict[str, Any] = {
    "student": "a" * 64,
    "budget": "0.3x",
    "settings": {},
    "seed": 0,
    "macs": 9,
    "steps": 1,
    "seconds": 1.0,
    "scores": {},
    "image_scores": {},
    "curves": {},
    "sample": "",
}


def earlier(folder: Path, kind: str = "report", *, table: object = None) -> str:
    with writing(folder, kind=kind, config=ReportConfig()) as writer:
        if kind == "report" and table != "":
            usual = {"dataset": "b" * 64, "teacher": None, "protocol": {}, "students": [STUDENT]}
            writer.write_json("standings.json", table or usual)
    return str(folder)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What local runs are asked for; each takes a second and runs one task."""
    asked: list[dict[str, Any]] = []

    def run_locally(*_: object, arguments: dict[str, Any], output: Path, **more: object) -> local.LocalRun:
        asked.append(arguments | {"output": output, "anew": more["anew"]})
        return local.LocalRun(output, Path(f"/artifacts/{len(asked)}"), ["write-report"], ["train-teacher"], 1.0)

    monkeypatch.setattr(local, "run_locally", run_locally)
    monkeypatch.setattr("pipelines.versions.content_of", lambda address, *_, **__: address)
    return asked


def test_a_large_grid_runs_as_several_sweeps_and_the_last_report_has_them_all(
    runs: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*GRID, "--output", str(tmp_path / "out"), "--workspace", str(tmp_path / "w"), "--no-cache", "distill"]
    assert main(["run", "--recipe", "smoke", *arguments]) == 0
    assert [run["seeds"] for run in runs] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11, 12]]
    assert [run["earlier_sweeps"] for run in runs] == [[], ["/artifacts/1"], ["/artifacts/1", "/artifacts/2"]]
    assert [run["output"].name for run in runs] == ["out-sweep-1", "out-sweep-2", "out"]
    assert len({run["model_version"] for run in runs}) == 3, "a cached report would miss what has changed"
    assert len({tuple(run["anew"].items()) for run in runs}) == 1, "what all sweeps share is made anew once"
    said = capsys.readouterr()
    assert "sweep 3 of 3" in said.err
    assert "3 stages ran, 3 came from the cache, 3 s in all" in said.err
    assert str(tmp_path / "out" / "report.html") in said.out


def test_a_small_grid_is_one_run_as_it_was_asked_for(runs: list[dict[str, Any]], tmp_path: Path) -> None:
    before = earlier(tmp_path / "before")
    api.run("smoke", pipeline="sweep", workspace=tmp_path / "w", arguments={"earlier_sweeps": [before]})
    (asked,) = runs
    assert asked["earlier_sweeps"] == [before]
    assert asked["output"].name == "smoke"


def test_reports_that_were_given_come_before_those_of_the_series(runs: list[dict[str, Any]], tmp_path: Path) -> None:
    before = earlier(tmp_path / "before")
    arguments = {"earlier_sweeps": [before], "seeds": list(range(9))}
    api.run("smoke", pipeline="sweep", workspace=tmp_path / "w", arguments=arguments)
    assert [run["earlier_sweeps"] for run in runs] == [[before], [before, "/artifacts/1"]]


def test_an_earlier_sweep_that_is_none_is_refused(runs: list[dict[str, Any]], tmp_path: Path) -> None:
    folder = earlier(tmp_path / "teacher", kind="teacher")
    with pytest.raises(UserError, match=r"the earlier report 1 .* cannot be used .*give the folder of a report"):
        api.run("smoke", pipeline="sweep", workspace=tmp_path / "w", arguments={"earlier_sweeps": [folder]})
    assert runs == []


@pytest.mark.parametrize(
    ("table", "sentence"), [("", "has no standings.json"), ({"students": []}, "is damaged or from another version")]
)
def test_an_earlier_report_without_students_to_compare_is_refused_before_any_is_trained(
    table: object, sentence: str, runs: list[dict[str, Any]], tmp_path: Path
) -> None:
    folder = earlier(tmp_path / "before", table=table)
    with pytest.raises(UserError, match=f"the earlier report 1 .* cannot be used .*{sentence}"):
        api.run("smoke", pipeline="sweep", workspace=tmp_path / "w", arguments={"earlier_sweeps": [folder]})
    assert runs == []


@pytest.mark.parametrize(
    "command",
    [
        ["compile", "--output", "sweep.yaml"],
        ["submit", "--host", "http://127.0.0.1:1", "--image", "cat:1"],
    ],
)
def test_one_run_of_so_many_students_is_refused(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([command[0], "--recipe", "smoke", *GRID, *command[1:]]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: These students are too many for one sweep (a sweep makes at most 12")
    assert "--wait" in error
    assert list(tmp_path.iterdir()) == []


def test_on_a_cluster_each_sweep_starts_when_the_one_before_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    class Started(SimpleNamespace):
        def wait(self, say: object, *, resubmit: int) -> SimpleNamespace:
            happened.append(f"{self.run_id} ended, resubmitted {resubmit} times at most")
            return SimpleNamespace(run_id=self.run_id)

    cluster = SimpleNamespace(
        where_to_look=lambda _: "there", report_address=lambda run_id, *, root: f"{root}/{run_id}/report"
    )

    def submit(recipe: object, *, arguments: dict[str, Any], **chosen: Any) -> Started:
        name = f"run-{sum('started' in line for line in happened)}"
        happened.append(f"{name} started after {arguments.get('earlier_sweeps')} in {chosen['experiment']}")
        return Started(cluster=cluster, run_id=name)

    monkeypatch.setattr(api, "submit", submit)
    recipe = load_recipe("smoke", ["sweep.seeds=[0,1,2,3,4,5,6,7]"])
    _, last = api.submit_in_turn(recipe, root="s3://runs", resubmit=2, say=lambda _: None, experiment="e")
    assert last.run_id == "run-1"
    assert happened == [
        "run-0 started after [] in e",
        "run-0 ended, resubmitted 2 times at most",
        "run-1 started after ['s3://runs/run-0/report'] in e",
        "run-1 ended, resubmitted 2 times at most",
    ]


@pytest.mark.parametrize("taken", ["out", "out-sweep-2"])
def test_a_place_of_results_that_is_taken_is_refused_before_anything_starts(
    runs: list[dict[str, Any]], taken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / taken).mkdir()
    (tmp_path / taken / "thesis.tex").write_text("mine")
    arguments = [*GRID, "--output", str(tmp_path / "out"), "--workspace", str(tmp_path / "w")]
    assert main(["run", "--recipe", "smoke", *arguments]) == 2
    assert f"Output {tmp_path / taken} exists and holds something else" in capsys.readouterr().err
    assert runs == []
    assert [path.name for path in tmp_path.iterdir()] == [taken]


def test_more_students_than_a_report_compares_are_refused_before_anything_starts(
    runs: list[dict[str, Any]], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="2 variations and 121 seeds make 242 students, but a report compares at"):
        api.run("smoke", pipeline="sweep", workspace=tmp_path, arguments={"seeds": list(range(121))})
    with pytest.raises(UserError, match="make 242 students"):
        api.submit_in_turn(load_recipe("smoke"), arguments={"seeds": list(range(121))}, say=lambda _: None)
    assert runs == []
    api.run("smoke", pipeline="sweep", workspace=tmp_path, arguments={"seeds": list(range(120))})
    assert sum(len(run["seeds"]) for run in runs) == 120


def test_weights_of_layers_that_the_teacher_lacks_are_refused_before_anything_starts(
    runs: list[dict[str, Any]], tmp_path: Path
) -> None:
    sentence = r"layer_weights has 1 numbers, expected 3, one per feature layer: down_sampling"
    for pipeline, change in (
        ("sweep", "sweep.variations=[{}, {distiller: {layer_weights: [1]}}]"),
        ("compress", "distill.distiller.layer_weights=[1]"),
    ):
        with pytest.raises(UserError, match=sentence):
            api.run("smoke", pipeline=pipeline, overrides=[change], workspace=tmp_path)
    assert runs == []


def test_a_part_that_is_wrong_is_refused_before_anything_starts(runs: list[dict[str, Any]], tmp_path: Path) -> None:
    recipe = load_recipe("smoke", ["sweep.seeds=[0,1,2,3,4,5,6,7]"])
    with pytest.raises(UserError, match="unknown key"):
        api.run(recipe, pipeline="sweep", workspace=tmp_path, arguments={"variations": [{}, {"wieght": 1}]})
    assert runs == []
