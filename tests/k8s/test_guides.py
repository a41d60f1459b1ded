"""The guides' commands: each of ours is run as it stands there, with other servers behind the addresses."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.catlib.artifacts import writing
from components.catlib.config import ReportConfig
from components.catlib.storage import Storage
from pipelines.__main__ import main
from tests.object_stores import seaweed_server
from tests.pipelines.kubeflow_server import RUN_ID, KubeflowServer, kubeflow

ROOT = Path(__file__).parents[2]
GUIDES = {"k8s/README.md": 11, "README.md": 3}
"""Guide -> how many of its commands speak of Kubeflow."""

PREFIX = ".venv/bin/python -m pipelines "


def shell_lines(guide: str) -> list[str]:
    """The commands in a guide's blocks of shell, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / guide).read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubeflowServer]:
    """A finished run on a cluster whose store holds its report where `overlays/local` says."""
    history = [("SUCCEEDED", {"train-teacher": "Succeeded", "write-report": "Succeeded"})]
    logs = {"train-teacher": "[teacher] step 1\n"}
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "token").write_text("secret")
    server = KubeflowServer(history=history, logs=logs, root="minio://cat/artifacts")
    with seaweed_server(tmp_path / "store") as store, kubeflow(server):
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        with writing(tmp_path / "report", kind="report", config=ReportConfig()) as writer:
            writer.write_json("report.html", {})
        Storage().make_bucket("s3://cat")
        Storage().publish(tmp_path / "report", f"s3://cat/artifacts/compress/{RUN_ID}/write-report/1/report")
        yield server


@pytest.mark.parametrize("guide", GUIDES)
def test_every_command_works(guide: str, cluster: KubeflowServer, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [line.removeprefix(PREFIX) for line in shell_lines(guide) if line.startswith(PREFIX)]
    assert len(commands) == GUIDES[guide]
    for command in commands:
        arguments = shlex.split(re.sub(r"https?://[\w.:]+(/pipeline)?(?= |$)", cluster.host, command), comments=True)
        arguments = [RUN_ID if argument == "RUN" else argument for argument in arguments]
        assert main(arguments) == 0, (command, capsys.readouterr().err)
    assert Path("build/smoke-report/report.html").is_file()


def test_every_setting_of_the_guide_is_one() -> None:
    lines = [line for line in shell_lines("k8s/README.md") if line.startswith("--set ")]
    assert len(lines) >= 4
    assert main(["validate", "--recipe", "smoke", *shlex.split(" ".join(lines))]) == 0


@pytest.mark.parametrize("guide", GUIDES)
def test_paths_of_manifests_are_there(guide: str) -> None:
    named = re.findall(r"(?:-k|kustomize) (k8s/[\w/-]+)", "\n".join(shell_lines(guide)))
    assert named
    assert all((ROOT / path / "kustomization.yaml").is_file() for path in named)
