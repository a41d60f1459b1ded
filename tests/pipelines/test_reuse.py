"""What a run on a cluster would take from the cache: its tasks, compared with those of the newest run."""

import copy
import json
from typing import Any

import pytest

from pipelines import compile_recipe, load_recipe
from pipelines.__main__ import main
from pipelines.parameters import all_arguments
from pipelines.reuse import Reuse, compare
from tests.pipelines.kubeflow_server import KubeflowServer, kubeflow

IMAGES = ["prepare-dataset", "measure-real-images"]
CHECKED = ["prepare-dataset", "check-images", "measure-real-images"]
STUDENT = ["prune-teacher", "distill-student", "evaluate-student", "export-student"]

Side = tuple[dict[str, Any], dict[str, Any]]


def student(label: str) -> list[str]:
    return [f"{task} {label}" for task in STUDENT]


@pytest.fixture(scope="module")
def compress() -> dict[str, Any]:
    return compile_recipe("smoke", image="cat:1").spec


@pytest.fixture(scope="module")
def sweep() -> dict[str, Any]:
    return compile_recipe("smoke", pipeline="sweep", image="cat:1").spec


def asked(*settings: str, pipeline: str = "compress") -> dict[str, Any]:
    return all_arguments(load_recipe("smoke", list(settings)), pipeline, {})


@pytest.mark.parametrize(
    ("settings", "cached", "reasons"),
    [
        ([], [*CHECKED, "train-teacher", *student("0.3x")], []),
        (["resources.days_kept=3", "tracking.experiment=e"], [*CHECKED, "train-teacher", *student("0.3x")], []),
        (["teacher.epochs=7"], IMAGES, ["check-images, train-teacher: teacher.epochs is 7, and was 1."]),
        (
            ["real_stats.batch_size=4"],
            ["prepare-dataset", "check-images"],
            ["measure-real-images: real_stats.batch_size is 4, and was 32."],
        ),
        (
            ["distill.epochs=7", "export.opset=19"],
            [*IMAGES, "train-teacher", "prune-teacher 0.3x"],
            [
                "check-images, distill-student 0.3x: distill.epochs is 7, and was 1.",
                "export-student 0.3x: export.opset is 19, and was 20.",
            ],
        ),
        (
            ["evaluate.num_samples=3"],
            [*IMAGES, "train-teacher", *student("0.3x")[:2], "export-student 0.3x"],
            ["check-images, evaluate-student 0.3x: evaluate.num_samples is 3, and was 4."],
        ),
        (
            ["budgets=[0.3x, 0.2x]"],
            [*CHECKED, "train-teacher", *student("0.3x")],
            [f"{', '.join(student('0.2x'))}: the earlier run has no such task."],
        ),
    ],
)
def test_what_differs_and_what_reads_it_runs_anew(
    settings: list[str], cached: list[str], reasons: list[str], compress: dict[str, Any]
) -> None:
    found = compare(compress, asked(), compress, asked(*settings))
    assert found.cached == cached
    assert found.executed[-1] == "write-report", "a report is always written"
    assert not set(found.cached) & set(found.executed)
    assert len(found.reasons) == len(reasons)
    for reason, beginning in zip(found.reasons, reasons, strict=True):
        assert reason.startswith(beginning)


def test_image_code_and_versions_of_addresses_count_but_marks_and_kinds_of_numbers_do_not(
    compress: dict[str, Any],
) -> None:
    text = json.dumps(compress)
    image = compare(compress, asked(), json.loads(text.replace("cat:1", "cat:2")), asked())
    assert image.cached == []
    assert image.reasons == [
        f"{', '.join([*CHECKED, 'train-teacher', *student('0.3x')])}: the image is cat:2, and was cat:1."
    ]
    other = copy.deepcopy(compress)
    code = other["root"]["dag"]["tasks"]["train-teacher"]["inputs"]["parameters"]["code_digest"]["runtimeValue"]
    code["constant"] += "+1234abcd"
    assert compare(other, asked(), compress, asked()).reasons == [], "later runs carry the mark on"
    code["constant"] = "0123456789ab"
    assert compare(other, asked(), compress, asked()).reasons == ["train-teacher: the code is another."]
    versions = compare(compress, asked() | {"source_version": "1"}, compress, asked() | {"source_version": "2"})
    assert versions.cached == []
    assert versions.reasons == ["prepare-dataset: source_version is 2, and was 1."]
    assert compare(compress, {}, compress, asked()).reasons == [], "defaults count like arguments"
    assert compare(compress, json.loads(json.dumps(asked()).replace(".0,", ",")), compress, asked()).reasons == []


def test_a_run_from_before_the_check_of_the_images_leaves_its_other_results(compress: dict[str, Any]) -> None:
    older = copy.deepcopy(compress)
    del older["root"]["dag"]["tasks"]["check-images"]
    older["root"]["dag"]["tasks"]["train-teacher"]["dependentTasks"].remove("check-images")
    found = compare(older, asked(), compress, asked())
    assert found.cached == [*IMAGES, "train-teacher", *student("0.3x")]
    assert found.executed == ["check-images", "write-report"]
    assert found.reasons == ["check-images: the earlier run has no such task."]


def test_students_of_a_sweep_are_told_apart_by_what_they_are(sweep: dict[str, Any]) -> None:
    before = asked(pipeline="sweep")
    same = compare(sweep, before, sweep, before)
    assert same.executed == ["write-report"]
    more = compare(sweep, before, sweep, asked("sweep.seeds=[0, 5]", pipeline="sweep"))
    assert "distill-student 0.3x seed=0" in more.cached
    assert "distill-student 0.3x seed=5" in more.executed
    longer = compare(sweep, before, sweep, asked("distill.epochs=7", pipeline="sweep"))
    assert "prune-teacher 0.3x" in longer.cached
    assert [name for name in longer.executed if name.startswith("distill-student")] == [
        name for name in same.cached if name.startswith("distill-student")
    ]


@pytest.mark.parametrize(
    ("pipeline", "arguments", "tasks"),
    [
        ("distill-only", {"teacher": "s3://cat/t"}, [*CHECKED, "fetch-teacher", *student("0.3x")]),
        (
            "evaluate-only",
            {"students": ["s3://cat/a"], "teacher": ""},
            [*IMAGES, "fetch-model s3://cat/a", "fetch-model-2 s3://cat/a", "evaluate-student s3://cat/a"],
        ),
    ],
)
def test_pipelines_with_earlier_models(pipeline: str, arguments: dict[str, Any], tasks: list[str]) -> None:
    spec = compile_recipe("smoke", pipeline=pipeline).spec
    before = asked(pipeline=pipeline) | arguments | {"model_version": "1"}
    same = compare(spec, before, spec, before)
    assert sorted(same.cached) == sorted(tasks)
    changed = compare(spec, before, spec, before | {"model_version": "2"})
    assert {name for name in changed.executed if "fetch" in name} == {name for name in tasks if "fetch" in name}
    assert set(changed.cached) == set(tasks) & set(CHECKED)
    assert isinstance(same, Reuse)


def test_validate_says_it_before_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    with kubeflow(KubeflowServer()) as server:
        given = ["--recipe", "smoke", "--host", server.host, "--image", "registry.example/cat:1"]
        assert main(["submit", *given]) == 0
        capsys.readouterr()
        assert main(["validate", *given, "--set", "distill.epochs=7", "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        name = server.runs[-1]["display_name"]
    assert said["cached"] == [*IMAGES, "train-teacher", "prune-teacher 0.3x"]
    assert said["executed"] == ["check-images", *student("0.3x")[1:], "write-report"]
    assert f"Not from run {name}: check-images, distill-student 0.3x: distill.epochs is 7, and was 1." in said["notes"]
    assert said["notes"][-1].startswith(f"The cache was compared with the newest run alone, {name}; ")
