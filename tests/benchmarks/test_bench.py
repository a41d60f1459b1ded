"""The bench itself: forms that compute the same, results that can be gone on from, and what it tells."""

import json
from pathlib import Path

import pytest

from components.catlib.config import TeacherConfig, validate
from components.catlib.errors import UserError
from components.catlib.timing import Machine
from tests.benchmarks import __main__ as command
from tests.benchmarks import report, running
from tests.benchmarks.cases import CASES
from tests.benchmarks.forms import Case, Forms
from tests.benchmarks.steps import EXTENTS, VARIANTS, step_forms

OPTIONS = {"device": "cpu", "scale": "tiny", "threads": 1, "repeats": 1, "seconds": 1.0, "growth": False}
COST_KEYS = {"device", "machine", "precision", "torch", "date", "family", "stage", "batch_size", "size"}
COST_KEYS |= {"work_macs", "seconds", "flops"}


@pytest.mark.parametrize(("family", "stage"), [("pix2pix", "distill"), ("cyclegan", "teacher"), ("spade", "teacher")])
def test_plain_steps_compute_what_ours_compute(family: str, stage: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(EXTENTS["tiny"], "pix2pix", EXTENTS["tiny"]["pix2pix"].__class__((32, 32), 2, 4, blocks=1))
    monkeypatch.setitem(EXTENTS["tiny"], "cyclegan", EXTENTS["tiny"]["pix2pix"])
    forms = step_forms(family, stage, "cpu", "tiny")
    assert {"plain", "ours", "fused", "fused, channels last"} <= set(forms.calls)
    assert forms.difference() < 1e-5
    assert forms.flops is not None
    assert forms.flops > 2 * forms.facts["work_macs"], "a step needs at least a forward pass"


@pytest.mark.parametrize("name", ["loader-images", "loader-labels", "features", "frechet", "packing", "export-batch"])
def test_other_forms_compute_the_same(name: str):
    forms = CASES[name].make("cpu", "tiny")
    assert forms.difference() <= forms.tolerance


def cases(monkeypatch: pytest.MonkeyPatch, *, difference: float = 0.0) -> list[str]:
    """Replaces the table by two cases; returns the names of those that are run, in order."""
    run: list[str] = []

    def make(name: str) -> Forms:
        calls = {"plain": lambda: None, "ours": lambda: None}
        run.append(name)
        return Forms(calls=calls, difference=lambda: difference, flops=1000)

    table = {
        name: Case(what=name, plain="", make=lambda _device, _scale, name=name: make(name)) for name in ("a", "b-c")
    }
    monkeypatch.setattr(running, "CASES", table)
    monkeypatch.setattr(running, "measure_peaks", lambda *_: {"fp32": {"gemm": 2e9, "convolution": 1e9}})
    return run


def test_forms_that_compute_something_else_are_not_timed(monkeypatch: pytest.MonkeyPatch):
    cases(monkeypatch, difference=0.01)
    with pytest.raises(AssertionError, match="a: the forms differ by"):
        running.run_case("a", device="cpu", scale="tiny", machine=Machine(), repeats=1, seconds=1)


def test_a_resumed_bench_runs_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    run, output = cases(monkeypatch), tmp_path / "results.json"
    running.run_all(["a"], **OPTIONS, output=output)
    found = running.run_all(["a", "b-c"], **OPTIONS, output=output, resume=True)
    assert run == ["a", "b-c"]
    assert json.loads(output.read_text()) == found
    running.run_all(["a"], **OPTIONS, output=output)
    assert run == ["a", "b-c", "a"], "without resume, everything is measured again"
    output.write_text(output.read_text().replace('"torch": "', '"torch": "other '))
    with pytest.raises(UserError, match="results of another machine"):
        running.run_all(["a"], **OPTIONS, output=output, resume=True)


def test_a_damaged_file_is_not_resumed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "bench.json").write_text('{"machine": ')
    with pytest.raises(UserError, match=r"bench\.json is not JSON; give another --output"):
        running.run_all(["a"], **OPTIONS, output=tmp_path / "bench.json", resume=True)
    assert command.main(["--only", "frechet", "--output", str(tmp_path / "bench.json"), "--resume"]) == 2


def test_table_and_markdown_show_every_form(monkeypatch: pytest.MonkeyPatch):
    cases(monkeypatch)
    found = running.run_all(["a", "b-c"], **OPTIONS, output=None)
    found["cases"]["a"]["forms"]["ours"] |= {"seconds": 1e-3, "flops_per_second": 1e9, "speedup": 2.5}
    lines = report.table(found).splitlines()
    assert found["machine"] in lines[0]
    (ours,) = [line.split() for line in lines if line.startswith("a ") and " ours " in line]
    assert ours[2:4] == ["1", "ms"]
    assert {"2.50×", "1.0", "50"} <= set(ours), "speed-up, GFLOP/s, and share of the best measured rate"
    assert sum(line.startswith(("| a |", "| b-c |")) for line in report.markdown(found).splitlines()) == 4


def test_growth_is_a_fitted_power():
    assert running._exponent([0.25, 0.5, 1.0], [3.0, 12.0, 48.0]) == pytest.approx(2)
    assert running._exponent([1.0], [3.0]) is None
    assert running._exponent([0.5, 1.0], [0, 3]) is None


def test_costs_of_steps_take_the_place_of_earlier_ones(tmp_path: Path):
    path, cost = tmp_path / "costs.json", dict.fromkeys(COST_KEYS, "x")
    running.write_step_costs(path, [cost | {"seconds": 1}, cost | {"family": "y", "seconds": 2}])
    running.write_step_costs(path, [cost | {"seconds": 3}])
    assert [each["seconds"] for each in json.loads(path.read_text())["measured"]] == [2, 3]


def test_the_committed_costs_cover_every_family_and_stage():
    costs = json.loads(running.STEP_COSTS.read_text())["measured"]
    assert {(cost["family"], cost["stage"]) for cost in costs} >= {
        (family, stage) for family in ("pix2pix", "cyclegan", "spade") for stage in ("teacher", "distill")
    }
    for cost in costs:
        assert set(cost) == COST_KEYS
        assert min(cost["seconds"], cost["flops"], cost["work_macs"]) > 0


def test_an_unknown_case_or_a_missing_card_is_refused(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert command.main(["--only", "nothing-*"]) == 2
    assert "names none of the cases teacher-pix2pix" in capsys.readouterr().err
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert command.main(["--only", "frechet", "--device", "cuda"]) == 2
    assert "needs a GPU" in capsys.readouterr().err
    assert command.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(CASES)


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_measured(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    (tmp_path / "file").touch()
    for output in (tmp_path, tmp_path / "file" / "bench.json"):
        assert command.main(["--only", "frechet", "--output", str(output)]) == 2
        printed = capsys.readouterr()
        assert printed.err.startswith(f"--output {output} cannot be written")
        assert printed.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_ctrl_c_says_how_to_go_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    def interrupted(*_: object, **__: object):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "run_all", interrupted)
    assert command.main(["--only", "frechet", "--output", str(tmp_path / "bench.json")]) == 75
    assert capsys.readouterr().err == "interrupted: with --resume, the same command goes on.\n"


@pytest.mark.parametrize("option", ["--repeats=0", "--repeats=x", "--threads=0", "--seconds=-1", "--seconds=nan"])
def test_numbers_that_measure_nothing_are_refused(option: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        command.main(["--only", "frechet", option])
    assert end.value.code == 2
    assert "is no " in capsys.readouterr().err


def test_every_variant_is_one_that_recipes_can_set():
    for variant in VARIANTS.values():
        validate(TeacherConfig, {"family": "pix2pix", **variant.settings}, where="teacher")
