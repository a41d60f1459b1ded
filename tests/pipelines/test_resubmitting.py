"""Runs that the cluster lost are told apart from failures of stages, and submitted again."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.catlib.errors import OutOfMemory, Unavailable, UserError
from components.catlib.storage.retrying import Unreachable
from pipelines.__main__ import main
from pipelines.api import Submitted
from pipelines.failure import RunFailed
from pipelines.resubmitting import Failure, RunLost, failure_of, watch_and_explain
from pipelines.tasks import STAGE_OF_TASK, stage_of
from pipelines.workflows import nodes_of
from tests.pipelines.kubeflow_server import KubeflowServer, kubeflow

RECORDED = Path(__file__).parent / "recorded"


def recorded(name: str) -> dict[str, Any]:
    """The nodes of a run's workflow, as a real server answered."""
    return dict(nodes_of(json.loads(answer(name)["pipeline_runtime"]["workflow_manifest"])))


def answer(name: str) -> dict[str, Any]:
    """What `GET /apis/v1beta1/runs/RUN` gave."""
    return json.loads(gzip.decompress((RECORDED / f"{name}.json.gz").read_bytes()))["v1beta1"]


def fail(nodes: dict[str, Any], name: str, phase: str, message: str | None, task: str = "") -> dict[str, Any]:
    """Lets a pod fail, and all that holds it; `task` is the task that it belongs to, for an executor."""
    for node in nodes.values():
        around = nodes.get(node.get("boundaryID", ""), {"displayName": ""})["displayName"]
        if node["type"] == "Pod" and node["displayName"] == name and around.startswith(task):
            node |= {"phase": phase, "message": message}
            while node is not None:
                for other in nodes.values():
                    if node["id"] in other.get("children", []) and other["type"] == "Retry":
                        other |= {"phase": phase}
                node = nodes.get(node.get("boundaryID"))
            return nodes
    raise AssertionError(name)


@pytest.mark.parametrize(
    ("name", "cause", "task", "message", "limit"),
    [
        ("usererror", "stage", "prepare-dataset", "main: Error (exit code 1)", "4Gi"),
        ("always", "stage", "prepare-dataset", "main: Error (exit code 1)", "4Gi"),
        ("lost", "stage", "prune-teacher", "main: Error (exit code 1)", "4Gi"),
        ("oom", "memory", "train-teacher", "main: OOMKilled (exit code 1)", "200Mi"),
        ("oom2", "memory", "train-teacher", "main: OOMKilled (exit code 1)", "200Mi"),
        ("del5", "cluster", "train-teacher", "pod deleted", "4Gi"),
        ("terminated", "ended", "train-teacher", "Step exceeded its deadline", "4Gi"),
    ],
)
def test_recorded_failures(name: str, cause: str, task: str, message: str, limit: str) -> None:
    failure = failure_of(recorded(name))
    assert failure is not None
    assert (failure.cause, failure.task, failure.message) == (cause, task, message)
    assert failure.limit == limit


@pytest.mark.parametrize(
    "name", ["smoke", "second", "three", "sweep", "distillonly", "minio", "podkill", "del6", "out6"]
)
def test_recorded_successes_have_none_though_pods_were_lost_and_tried_again(name: str) -> None:
    assert failure_of(recorded(name)) is None


@pytest.mark.parametrize(
    ("pod", "phase", "message", "task"),
    [
        ("prune-teacher-driver(0)", "Error", "wait: Error (exit code 64): failed to put file", "prune-teacher"),
        ("prune-teacher-driver(0)", "Failed", "main: Error (exit code 1)", "prune-teacher"),
        ("root-driver(0)", "Error", "pod deleted", "root"),
        ("iteration-item-driver(0)", "Failed", "main: Error (exit code 1)", "iteration-item"),
        ("write-report-driver(0)", "Error", None, "write-report"),
        ("train-teacher-driver(0)", "Failed", "main: OOMKilled (exit code 137)", "train-teacher"),
    ],
)
def test_a_driver_that_fails_is_the_clusters(pod: str, phase: str, message: str | None, task: str) -> None:
    failure = failure_of(fail(recorded("smoke"), pod, phase, message))
    assert failure == Failure("cluster", task, "driver", message or "")
    assert failure is not None
    assert failure.explained().startswith(f"The cluster lost Kubeflow's own pod for {task} (")
    assert "--resubmit N" in failure.explained()


@pytest.mark.parametrize(
    ("phase", "message", "cause"),
    [
        ("Error", "pod deleted", "cluster"),
        ("Failed", "The node was low on resource: memory. Container main was using 5Gi, request is 4Gi.", "cluster"),
        ("Failed", "Pod was terminated in response to imminent node shutdown.", "cluster"),
        ("Failed", "Preempted in order to admit critical pod", "cluster"),
        ("Failed", "main: Error (exit code 143)", "cluster"),
        ("Error", "wait: Error (exit code 64): failed to put file", "cluster"),
        ("Error", "init: Error (exit code 2)", "cluster"),
        ("Failed", "kfp-launcher: OOMKilled (exit code 137)", "cluster"),
        ("Error", 'pods "x" is forbidden: exceeded quota', "cluster"),
        ("Error", None, "cluster"),
        ("Failed", "main: Error (exit code 1)", "stage"),
        ("Failed", "main: Error (exit code 2)", "stage"),
        ("Failed", "Error (exit code 1)", "stage"),
        ("Failed", "main: Error (exit code 139)", "stage"),
        ("Failed", "Pod was active on the node longer than the specified deadline", "stage"),
        ("Failed", None, "stage"),
        ("Failed", "main: OOMKilled (exit code 137)", "memory"),
        ("Failed", "main: Error (exit code 137)", "memory"),
        ("Failed", "OOMKilled (exit code 137)", "memory"),
        ("Failed", "Step exceeded its deadline", "ended"),
        ("Error", "workflow shutdown with strategy:  Terminate", "ended"),
        ("Failed", "Stopped with strategy 'Stop'", "ended"),
    ],
)
def test_pods_of_stages(phase: str, message: str | None, cause: str) -> None:
    failure = failure_of(fail(recorded("smoke"), "executor(0)", phase, message, "distill-student"))
    assert failure is not None
    assert (failure.cause, failure.task, failure.pod, failure.limit) == (cause, "distill-student", "stage", "4Gi")


def test_a_large_workflow_without_wrapped_nodes_and_several_failures() -> None:
    nodes = fail(recorded("three"), "executor(0)", "Error", "pod deleted", "distill-student")
    lost = failure_of(nodes)
    assert lost is not None
    assert lost.cause == "cluster"
    fail(nodes, "executor(0)", "Failed", "main: Error (exit code 1)", "export-student")
    worse = failure_of(nodes)
    assert worse is not None
    assert (worse.cause, worse.task) == ("stage", "export-student")


def test_the_last_attempt_counts_and_an_earlier_one_that_was_killed_explains_it() -> None:
    def attempts(*messages: str) -> Failure | None:
        nodes = recorded("oom2")
        for number, message in enumerate(messages):
            phase = "Error" if message == "pod deleted" else "Failed"
            (pod,) = [node for node in nodes.values() if node["displayName"] == f"executor({number})"
                      and node["phase"] == "Failed"]  # fmt: skip
            pod |= {"phase": phase, "message": message}
        return failure_of(nodes)

    error, killed, deleted = "main: Error (exit code 1)", "main: OOMKilled (exit code 1)", "pod deleted"
    for messages, cause in {
        (deleted, error, error): "stage",
        (error, error, deleted): "cluster",
        (killed, error, error): "memory",
        (killed, killed, deleted): "cluster",
        (deleted, deleted, killed): "memory",
    }.items():
        found = attempts(*messages)
        assert found is not None
        assert found.cause == cause, messages


def test_nothing_is_known_without_nodes() -> None:
    assert failure_of({}) is None
    assert nodes_of({}) == nodes_of({"status": None}) == {}


def test_every_task_of_a_pipeline_has_its_stage() -> None:
    from pipelines import compile_recipe

    for pipeline in ("compress", "sweep", "distill-only", "evaluate-only"):
        spec = compile_recipe("smoke", pipeline=pipeline, overrides=["resources.stages.teacher={memory: 7Gi}"]).spec
        for name in spec["deploymentSpec"]["executors"]:
            task = name.removeprefix("exec-")
            assert task in STAGE_OF_TASK or task.startswith(("fetch-model-", "list")), task
    assert stage_of("train-teacher") == "teacher"
    assert stage_of("measure-real-images") == "real_stats"


# --------------------------------------------------------------------------------------------------------------- again


class Fate:
    """A cluster on which each run ends as is written: with an error and the nodes of its workflow, or well."""

    def __init__(self, *ends: tuple[Exception, dict[str, Any]] | None) -> None:
        self.ends = list(ends)
        self.submissions = 1

    def wait(self, run_id: str, *, say: Callable[[str], None]) -> str:
        end = self.ends[int(run_id)]
        if end is not None:
            raise end[0]
        return run_id

    def workflow(self, run_id: str) -> dict[str, Any]:
        end = self.ends[int(run_id)]
        assert end is not None
        return {"status": {"nodes": end[1]}}

    def submitted(self) -> Any:
        def again() -> Any:
            self.submissions += 1
            return self.submitted()

        number = str(self.submissions - 1)
        return Submitted(self, number, f"http://ui/{number}", again)  # pyright: ignore[reportArgumentType]


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    slept: list[float] = []
    monkeypatch.setattr("pipelines.api.time.sleep", slept.append)
    yield slept


FAILED = RunFailed("Run smoke failed in train-teacher.")
LOST = (FAILED, recorded("del5"))
DRIVER = (FAILED, fail(recorded("smoke"), "prune-teacher-driver(0)", "Error", "wait: Error (exit code 64)"))
AWAY = (Unavailable("train-teacher: The object store stays away."), recorded("usererror"))


def test_a_lost_run_is_submitted_again_after_growing_pauses(pauses: list[float]) -> None:
    fate, said = Fate(LOST, DRIVER, AWAY, None), []
    assert fate.submitted().wait(said.append, resubmit=5) == "3"
    assert fate.submissions == 4
    assert pauses == [60.0, 120.0, 240.0]
    assert said[0].startswith("The cluster lost the pod of train-teacher (pod deleted), and no stage failed")
    assert said[1] == "Run smoke failed in train-teacher; it is submitted again in 60 s, 1 of 5"
    assert said[2] == "Run 1: http://ui/1"
    assert said[3].startswith("The cluster lost Kubeflow's own pod for prune-teacher (wait: Error (exit code 64))")
    assert said[6] == "train-teacher: The object store stays away; it is submitted again in 240 s, 3 of 5"


@pytest.mark.parametrize("times", [0, 1, 3])
def test_it_is_given_up_after_so_many_times(times: int, pauses: list[float]) -> None:
    fate, said = Fate(*[LOST] * 9), []
    with pytest.raises(RunLost, match=f"^{FAILED}$"):
        fate.submitted().wait(said.append, resubmit=times)
    assert "--resubmit N" in said[-1]
    assert fate.submissions == times + 1
    assert len(pauses) == times


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ((FAILED, recorded("usererror")), RunFailed),
        ((FAILED, recorded("terminated")), RunFailed),
        ((FAILED, {}), RunFailed),
        ((FAILED, recorded("oom2")), RunFailed),
        ((UserError("prepare-dataset: There are no images."), recorded("usererror")), UserError),
        ((OutOfMemory("Stage teacher ran out of memory."), recorded("usererror")), OutOfMemory),
        ((Unreachable("Kubeflow cannot be reached."), recorded("del5")), Unreachable),
    ],
)
def test_what_would_fail_again_or_goes_on_is_not_submitted_again(
    end: tuple[Exception, dict[str, Any]], kind: type[Exception], pauses: list[float]
) -> None:
    fate = Fate(end, None)
    with pytest.raises(kind) as raised:
        fate.submitted().wait(lambda line: None, resubmit=3)
    assert type(raised.value) is kind
    assert fate.submissions == 1


def test_an_out_of_memory_names_the_limit_and_the_setting() -> None:
    said: list[str] = []
    with pytest.raises(RunFailed):
        watch_and_explain(Fate((FAILED, recorded("oom"))), "0", say=said.append)  # pyright: ignore[reportArgumentType]
    assert said == [
        "Task train-teacher ran out of memory (main: OOMKilled (exit code 1) at its limit of 200Mi); raise "
        "resources.stages.teacher.memory, or lower teacher.batch_size."
    ]


def test_nothing_is_added_to_what_a_stage_or_a_person_did() -> None:
    for name in ("usererror", "terminated"):
        failure = failure_of(recorded(name))
        assert failure is not None
        assert failure.explained() == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--resubmit", "2"], "--resubmit N needs --wait"),
        (["--wait", "--resubmit", "-1"], "'-1' is not a whole number"),
        (["--wait", "--resubmit", "often"], "is not a whole number"),
    ],
)
def test_a_wrong_number_is_refused(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["submit", "--recipe", "smoke", "--host", "http://127.0.0.1:1", *arguments])
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert words in capsys.readouterr().err


class WithWorkflow(KubeflowServer):
    """A server that also hands out the workflow of its runs: always that of a recorded one."""

    def _routes(self) -> dict[str, Callable[..., tuple[int, Any]]]:
        return super()._routes() | {"GET /apis/v1beta1/runs/([^/]+)": self._workflow}

    def _workflow(self, run_id: str, **_: Any) -> tuple[int, Any]:
        return 200, answer("del5")


def test_the_same_pipeline_with_the_same_arguments_is_sent_again(
    pauses: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """So everything that had finished is in the cache, whose keys hold nothing but these."""
    with kubeflow(WithWorkflow()) as server:
        server.history = [("FAILED", []), ("SUCCEEDED", [])]
        command = ["submit", "--recipe", "smoke", "--budget", "0.4x", "--host", server.host, "--wait", "--json"]
        assert main([*command, "--resubmit", "2"]) == 0
        first, second = server.runs
        assert first["display_name"] != second["display_name"]
        for key in ("pipeline_spec", "runtime_config", "experiment_id"):
            assert first[key] == second[key]
        captured = capsys.readouterr()
        assert json.loads(captured.out)["state"] == "SUCCEEDED"
        assert "The cluster lost the pod of train-teacher (pod deleted), and no stage failed" in captured.err
        assert pauses == [60.0]
        server.history = [("FAILED", [])]
        assert main(["status", server.runs[0]["run_id"], "--host", server.host, "--wait"]) == 1
        *_, explanation, last = capsys.readouterr().err.splitlines()
        assert explanation.startswith("The cluster lost the pod of train-teacher (pod deleted)")
        assert last.startswith("failed: Run compress smoke ")
