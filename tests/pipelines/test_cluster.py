"""Runs on a cluster: Kubeflow's real client against a server that holds every request against Kubeflow's models."""

import hashlib
import json
import re
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.catlib.code_digest import code_digest
from components.catlib.errors import UserError
from components.catlib.recipes import load_recipe
from components.catlib.storage.retrying import Unreachable
from pipelines import submit
from pipelines.__main__ import main
from pipelines.cluster import Cluster
from pipelines.connection import Connection
from pipelines.parameters import PARAMETERS
from pipelines.resources import Placement
from tests.pipelines.kubeflow_server import RUN_ID, KubeflowServer, kubeflow
from tests.web_servers import web_server


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.watching.POLL_SECONDS", 0.01)
    monkeypatch.setattr("components.catlib.storage.retrying.FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture
def server() -> Iterator[KubeflowServer]:
    with kubeflow(KubeflowServer()) as server:
        yield server


def said_by(capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    captured = capsys.readouterr()
    return captured.out, captured.err


# -------------------------------------------------------------------------------------------------------------- submit


def test_submit_sends_the_compiled_pipeline_with_checked_arguments(
    server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--recipe", "smoke", "--set", "resources.profile=gpu", "--budget", "0.4x", "0.2x"]
    assert main(["submit", *arguments, "--host", server.host, "--root", "s3://b/runs"]) == 0
    out, err = said_by(capsys)
    assert out.strip() == RUN_ID
    assert f"{server.host}/#/runs/details/{RUN_ID}" in err
    (run,) = server.runs
    assert run["display_name"].startswith("compress smoke ")
    assert run["runtime_config"]["pipeline_root"] == "s3://b/runs"
    spec = run["pipeline_spec"]["pipeline_spec"]
    assert spec["root"]["inputDefinitions"]["parameters"]["budgets"]["defaultValue"] == ["0.4x", "0.2x"]
    assert (
        "exec-train-teacher"
        in run["pipeline_spec"]["platform_spec"]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    )
    assert [each["display_name"] for each in server.experiments] == ["smoke"]


def test_the_link_opens_or_is_said_to_be_unknown(server: KubeflowServer, capsys: pytest.CaptureFixture[str]) -> None:
    for interface in (True, False):
        server.interface = interface
        assert main(["submit", "--recipe", "smoke", "--host", server.host, "--json"]) == 0
        out, err = said_by(capsys)
        link = json.loads(out)["link"]
        said = err.splitlines()[-1]
        if interface:
            assert said == f"Run {RUN_ID}: {link}"
            with urllib.request.urlopen(link.partition("#")[0]) as page:
                assert page.headers.get_content_type() == "text/html"
        else:
            assert link == ""
            assert server.host not in said, "the API server has no pages"
            assert "kubectl port-forward -n kubeflow service/ml-pipeline-ui 8080:80" in said
        assert main(["status", RUN_ID, "--host", server.host]) == 0
        assert (link in said_by(capsys)[0].splitlines()) is interface


@pytest.mark.parametrize(
    ("pipeline", "needed"),
    [
        ("compress", {}),
        ("sweep", {"seeds": [3]}),
        ("distill-only", {"teacher": "s3://cat/teacher"}),
        ("evaluate-only", {"students": ["s3://cat/student"]}),
    ],
)
def test_what_was_asked_stands_in_the_run(pipeline: str, needed: dict[str, Any], server: KubeflowServer) -> None:
    overrides, budgets = ["teacher.epochs=7", "resources.store_secret=cat-store"], ["0.4x"]
    arguments = needed | {"evaluate": {"num_samples": 2}}
    submit(
        "smoke",
        connection=Connection(host=server.host),
        pipeline=pipeline,
        overrides=overrides,
        budgets=budgets,
        arguments=arguments,
    )
    sent = server.runs[-1]["runtime_config"]["parameters"]
    recipe = load_recipe("smoke", overrides, budgets)
    wanted = {each.name: each.default(recipe) for each in PARAMETERS[pipeline] if each.setting} | needed
    evaluate = recipe.section("evaluate") | {"num_samples": 2, "batch_size": sent["evaluate"]["batch_size"]}
    assert sent["base_recipe"] == "smoke"
    assert sent["evaluate"]["num_samples"] == 2
    assert set(sent["evaluate"]) == set(evaluate), "every setting, not only those that were given"
    assert {name: value for name, value in sent.items() if name != "evaluate" and "version" not in name} == {
        name: value for name, value in wanted.items() if name != "evaluate"
    }


def test_an_experiment_that_is_there_is_used(server: KubeflowServer) -> None:
    for _ in range(2):
        assert main(["submit", "--recipe", "smoke", "--host", server.host, "--experiment", "tuning"]) == 0
    assert len(server.experiments) == 1
    assert len({run["display_name"] for run in server.runs}) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--pipeline", "distill-only"], "needs teacher"),
        (["--argument", "teachers=x"], "has no parameter 'teachers'"),
        (["--argument", "budgets=0.1x"], "budgets of pipeline compress is a list"),
        (["--argument", "source_version=3"], "is a text, not 3"),
        (["--argument", "source_version"], "not of the form NAME=VALUE"),
        (["--argument", "budgets=[lots]"], "'lots' is not a compute budget"),
        (["--argument", "teacher={epoch: 1}"], "did you mean 'epochs'"),
        (
            ["--pipeline", "distill-only", "--argument", "teacher=x", "--argument", "teacher_settings={epoch: 1}"],
            "'epochs'",
        ),
        (["--argument", "report={nam: x}"], "did you mean 'name'"),
        (["--pipeline", "sweep", "--argument", "seeds=[0, 1, 2, 3, 4, 5, 6]"], "too many for one sweep"),
        (["--pipeline", "sweep", "--argument", "variations=[{lambda: 1}]"], "unknown key 'lambda'"),
        (["--set", "teacher.epoch=1"], "did you mean 'epochs'"),
        (["--set", "resources.stages.teacher.memory=lots"], "resources.stages.teacher.memory"),
        (["--image", "cat-pipeline"], "not pinned"),
        (["--image", "cat-pipeline:latest"], "not pinned"),
    ],
)
def test_nothing_is_sent_when_something_is_wrong(
    arguments: list[str], sentence: str, server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "--recipe", "smoke", "--host", server.host, *arguments]) == 2
    out, err = said_by(capsys)
    assert out == ""
    assert sentence in err
    assert err.count("\n") == 1
    assert server.requests == []


def test_what_runs_anew_since_the_newest_run_is_said(
    server: KubeflowServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def said(*arguments: str) -> list[str]:
        assert main(["submit", "--recipe", "smoke", "--host", server.host, *arguments]) == 0
        return said_by(capsys)[1].splitlines()[:-1]

    def images(number: int) -> tuple[str, str]:
        return "--image", f"registry.example/cat:{number}"

    assert said(*images(1)) == [], "there is no earlier run"
    assert said(*images(1)) == [], "nothing has changed"
    other_code = property(lambda placement: changed, lambda placement, given: None)
    monkeypatch.setattr(Placement, "code_digest", other_code, raising=False)
    (line,) = said(*images(1))
    assert re.fullmatch(
        r"Not from the cache of run compress smoke \w{6}, with all that reads their results: the code of "
        r"distill-student is another\.",
        line,
    )
    (line,) = said(*images(2))
    assert "the image is registry.example/cat:2, and was registry.example/cat:1 (" in line
    for task in ("prepare-dataset", "train-teacher", "export-student"):
        assert task in line
    assert "write-report" not in line, "it always runs"
    assert said("--pipeline", "sweep", *images(3)) == [], "the cache is another pipeline's"
    (line,) = said(*images(3))
    assert "and was registry.example/cat:2 (" in line


def changed(stage: str) -> str:
    """The digests of code in which the distillation is another."""
    return "0123456789ab" if stage == "distill" else code_digest(stage)


@pytest.mark.parametrize("spec", [None, {}, {"pipeline_spec": {"pipelineInfo": {"name": "compress"}}}])
def test_where_earlier_runs_cannot_be_read_nothing_is_said(
    spec: dict | None, server: KubeflowServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {"run_id": "r", "display_name": "compress smoke 0123ab", "pipeline_spec": spec}
    monkeypatch.setattr(server, "_list_runs", lambda **_: (200, {"runs": [run]}))
    assert main(["submit", "--recipe", "smoke", "--host", server.host, "--image", "registry.example/cat:1"]) == 0
    assert len(said_by(capsys)[1].splitlines()) == 1


def test_arguments_count_for_versions_and_pins(
    server: KubeflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sent = []
    with web_server() as web:
        web.files = {"/images.zip": b"zip", "/w.pth": b"weights"}
        arguments = {
            "dataset": {"source": web.url("/images.zip")},
            "evaluate": {"lpips": {"weights": {"uri": web.url("/w.pth")}}},
        }
        for version in ("1", "2"):
            web.etags["/images.zip"] = version
            submit("smoke", connection=Connection(host=server.host), arguments=arguments)
            sent.append(server.runs[-1]["runtime_config"]["parameters"])
    assert sent[0]["source_version"] != sent[1]["source_version"]
    assert sent[0]["dataset_source"] == arguments["dataset"]["source"]
    assert sent[0]["evaluate"]["lpips"]["weights"]["sha256"] == hashlib.sha256(b"weights").hexdigest()


def test_a_given_version_stays(server: KubeflowServer) -> None:
    submit("smoke", connection=Connection(host=server.host), arguments={"source_version": "mine"})
    assert server.runs[-1]["runtime_config"]["parameters"]["source_version"] == "mine"


def test_a_run_whose_answer_got_lost_is_not_made_twice(server: KubeflowServer) -> None:
    server.drop_created = 1
    submitted = submit("smoke", connection=Connection(host=server.host))
    assert submitted.run_id == RUN_ID
    assert len(server.runs) == 1


def test_an_api_that_stumbles_is_asked_again(server: KubeflowServer) -> None:
    server.faults = {"POST .*/runs": [503, 502], "GET .*/experiments": [500], "GET .*/runs/": [500, 503]}
    submitted = submit("smoke", connection=Connection(host=server.host))
    assert submitted.wait(say=lambda line: None).state == "SUCCEEDED"
    assert len(server.runs) == 1


def test_an_api_that_refuses_is_not_asked_again(server: KubeflowServer) -> None:
    server.faults = {"POST .*/runs": [400, 400]}
    with pytest.raises(UserError, match=r"refuses .creating the run: the database is being moved"):
        submit("smoke", connection=Connection(host=server.host))
    assert server.requests.count("POST /apis/v2beta1/runs") == 1


def test_an_upload_shows_in_the_interface_and_later_ones_are_versions(server: KubeflowServer) -> None:
    assert main(["upload", "--recipe", "smoke", "--host", server.host]) == 0
    assert main(["upload", "--recipe", "demo", "--host", server.host]) == 0
    assert list(server.pipelines) == ["cat-compress"]
    first, second = server.pipelines["cat-compress"]
    assert first == "cat-compress"
    assert second.startswith("demo-")


# -------------------------------------------------------------------------------------------------------------- connect


def test_an_endpoint_where_nothing_listens_fails_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{unused.getsockname()[1]}"
    assert main(["submit", "--recipe", "smoke", "--host", host]) == 2
    _, err = said_by(capsys)
    assert err.startswith(f"error: Kubeflow Pipelines cannot be reached at {host} (connecting: ")
    assert err.count("\n") == 1


def test_an_endpoint_that_never_answers_fails_within_ten_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        host = f"http://127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        assert main(["submit", "--recipe", "smoke", "--host", host]) == 2
    assert time.monotonic() - began < 10
    _, err = said_by(capsys)
    assert "cannot be reached" in err
    assert "timed out" in err
    assert err.count("\n") == 1


def test_a_wrong_host_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--host", "http://127.0.0.1:1"]) == 2
    assert "check --host, and that `kubectl port-forward` runs" in said_by(capsys)[1]


def test_an_api_that_is_still_starting_is_waited_for(server: KubeflowServer) -> None:
    server.faults = {"GET .*/healthz": [503, 429, 502]}
    assert main(["status", "--host", server.host]) == 0


def test_an_api_that_never_starts_is_unavailable(server: KubeflowServer) -> None:
    server.faults = {"GET .*/healthz": [503] * 1000}
    with pytest.raises(Unreachable, match=r"cannot be reached at .*connecting") as caught:
        Cluster(Connection(host=server.host), patience=0.4)
    assert caught.value.exit_code == 75


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_what_passes_is_asked_again(server: KubeflowServer, status: int) -> None:
    submitted = submit("smoke", connection=Connection(host=server.host))
    server.faults = {"GET .*/runs/": [status, status]}
    assert submitted.wait(say=lambda line: None).state == "SUCCEEDED"


def test_the_api_says_when_to_come_back(server: KubeflowServer) -> None:
    cluster = Cluster(Connection(host=server.host))
    server.faults, server.pause = {"GET .*/runs": [429]}, "1"
    began = time.monotonic()
    assert cluster.runs() == []
    assert 1 <= time.monotonic() - began < 3


def test_an_api_that_was_reached_and_is_lost_ends_as_unavailable(capsys: pytest.CaptureFixture[str]) -> None:
    with kubeflow(KubeflowServer()) as server:
        submitted = submit("smoke", connection=Connection(host=server.host))
        cluster = Cluster(Connection(host=server.host), patience=1)
    began = time.monotonic()
    with pytest.raises(Unreachable, match="try again later") as caught:
        cluster.run(submitted.run_id)
    assert caught.value.exit_code == 75
    assert time.monotonic() - began >= 1


def test_another_server_is_not_taken_for_kubeflow(server: KubeflowServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--host", f"{server.host}/elsewhere"]) == 2
    assert "answers, but not as Kubeflow Pipelines does" in said_by(capsys)[1]


def test_a_login_page_is_not_taken_for_kubeflow(server: KubeflowServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_health", lambda **_: (200, "<html>Log in</html>"))
    with pytest.raises(UserError, match="give --token-file"):
        Cluster(Connection(host=server.host))


def test_a_login_page_in_place_of_a_run_is_told(
    server: KubeflowServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit("smoke", connection=Connection(host=server.host))
    capsys.readouterr()
    monkeypatch.setattr(server, "_get_workflow", lambda *_, **__: (200, "<html>Log in</html>"))
    assert main(["status", RUN_ID, "--host", server.host]) == 2
    err = said_by(capsys)[1]
    assert "does not answer as Kubeflow Pipelines does (reading the tasks of run" in err
    assert "give --token-file" in err


def test_a_token_is_sent_and_a_wrong_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "token").write_text("secret\n")
    with kubeflow(KubeflowServer(token="secret")) as server:
        assert main(["submit", "--recipe", "smoke", "--host", server.host]) == 2
        assert "refuses (connecting: 401" in said_by(capsys)[1]
        token = ["--token-file", str(tmp_path / "token")]
        assert main(["submit", "--recipe", "smoke", "--host", server.host, *token]) == 0
    assert len(server.runs) == 1


def test_a_kubeflow_with_profiles_wants_a_namespace(capsys: pytest.CaptureFixture[str]) -> None:
    with kubeflow(KubeflowServer(multi_user=True)) as server:
        assert main(["submit", "--recipe", "smoke", "--host", server.host]) == 2
        assert "--namespace" in said_by(capsys)[1]
        assert main(["submit", "--recipe", "smoke", "--host", server.host, "--namespace", "alice"]) == 0
    assert [each["namespace"] for each in server.experiments] == ["alice"]


def test_without_a_host_and_a_kubeconfig_nothing_is_guessed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    assert main(["status"]) == 2
    assert "The kubeconfig cannot be used" in said_by(capsys)[1]


def test_the_kubeconfig_leads_through_the_kubernetes_api(
    server: KubeflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": {"server": server.host}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
    with pytest.raises(UserError, match="not as Kubeflow Pipelines does"):
        Cluster(Connection(kubeflow_namespace="pipelines"))
    (path,) = {request.split()[1] for request in server.requests}
    assert path.startswith("/api/v1/namespaces/pipelines/services/ml-pipeline:http/proxy/")
    assert path.endswith("/apis/v2beta1/healthz")


@pytest.fixture
def pod(server: KubeflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes this process one in a pod of the cluster; returns the file where its token for Kubeflow is mounted."""
    (tmp_path / "account").write_text("of the Kubernetes API")
    (tmp_path / "ca.crt").write_text("certificate")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(tmp_path / "account"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr("kfp.client.Client._IN_CLUSTER_DNS_NAME", server.host.removeprefix("http://"))
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    server.token = "mounted"
    return tmp_path / "token"


def test_in_a_pod_the_service_accounts_token_is_used_and_renewed(server: KubeflowServer, pod: Path) -> None:
    pod.write_text("mounted")
    cluster = Cluster(Connection())
    pod.write_text("renewed")
    server.token = "renewed"
    assert cluster.runs() == []


def test_a_pod_without_a_token_is_told_what_to_check(pod: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 2
    err = said_by(capsys)[1]
    assert err.startswith("error: Kubeflow at the cluster of this pod or of the kubeconfig refuses (connecting: 401 ")
    assert "check the token" in err
