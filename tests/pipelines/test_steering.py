"""Runs on a cluster are ended and tried again through Kubeflow's own calls."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pipelines import submit
from pipelines.__main__ import main
from pipelines.connection import Connection
from tests.pipelines.kubeflow_server import KubeflowServer, kubeflow


class Steered(KubeflowServer):
    """A server that ends runs and tries them again."""

    def _routes(self) -> dict[str, Callable[..., tuple[int, Any]]]:
        steered = {
            f"POST /apis/v2beta1/runs/([^/]+):{how}": lambda run_id, **_: (200, {}) for how in ("terminate", "retry")
        }
        workflow = {"GET /apis/v1beta1/runs/([^/]+)": lambda run_id, **_: (200, {})}
        return steered | workflow | super()._routes()


@pytest.fixture
def server() -> Iterator[KubeflowServer]:
    with kubeflow(Steered()) as server:
        yield server


def steered(server: KubeflowServer) -> list[str]:
    return [request.rpartition("/")[2] for request in server.requests if request.startswith("POST") and ":" in request]


@pytest.mark.parametrize(
    ("command", "state", "asked"),
    [
        ("cancel", "RUNNING", "terminate"),
        ("cancel", "PENDING", "terminate"),
        ("retry", "FAILED", "retry"),
        ("retry", "CANCELED", "retry"),
    ],
)
def test_a_run_is_steered(
    command: str, state: str, asked: str, server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = submit("smoke", connection=Connection(host=server.host), say=lambda line: None).run_id
    server.history = [(state, [])]
    assert main([command, run_id, "--host", server.host, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["run_id"] == run_id
    assert steered(server) == [f"{run_id}:{asked}"]


@pytest.mark.parametrize(
    ("command", "state", "words"),
    [
        ("cancel", "SUCCEEDED", "has ended (succeeded); there is nothing to cancel"),
        ("cancel", "FAILED", "has ended (failed)"),
        ("retry", "SUCCEEDED", "is succeeded; only a run that failed"),
        ("retry", "RUNNING", "is running; only a run that failed"),
    ],
)
def test_a_run_in_another_state_is_left_alone(
    command: str, state: str, words: str, server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run_id = submit("smoke", connection=Connection(host=server.host), say=lambda line: None).run_id
    server.history = [(state, [])]
    assert main([command, run_id, "--host", server.host]) == 2
    assert words in capsys.readouterr().err
    assert steered(server) == []


@pytest.mark.parametrize("command", ["cancel", "retry"])
def test_an_unknown_run_and_a_refusal_are_sentences(
    command: str, server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "nosuch", "--host", server.host]) == 2
    assert "Run nosuch not found" in capsys.readouterr().err
    run_id = submit("smoke", connection=Connection(host=server.host), say=lambda line: None).run_id
    server.history = [("RUNNING" if command == "cancel" else "FAILED", [])]
    server.faults = {"POST .*:(terminate|retry)": [403]}
    assert main([command, run_id, "--host", server.host]) == 2
    assert capsys.readouterr().err.startswith("error: Kubeflow at ")
