"""The patch of Argo's settings: what it changes, what it leaves, and that its undo restores every letter."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

SCRIPT = Path(__file__).parents[2] / "k8s" / "retries.py"

SHIPPED = {
    "kind": "ConfigMap",
    "metadata": {"name": "workflow-controller-configmap", "namespace": "kubeflow", "resourceVersion": "7"},
    "data": {
        "artifactRepository": """archiveLogs: true
s3:
  endpoint: "seaweedfs.kubeflow.svc:9000"
  # a comment
  keyFormat: "private-artifacts/{{workflow.namespace}}/{{workflow.name}}/{{workflow.creationTimestamp.Y}}/{{pod.name}}"
  insecure: true
""",
        "executor": "imagePullPolicy: IfNotPresent\n",
        "workflowDefaults": """spec:
  ttlStrategy: {secondsAfterSuccess: 3600, secondsAfterFailure: 3600}
  templateDefaults:
    retryStrategy:
      limit: 2
      retryPolicy: OnError
""",
    },
}
"""What Kubeflow Pipelines 2.17 ships, as far as it matters here."""


def run(tmp_path: Path, config_map: Any, *flags: str) -> subprocess.CompletedProcess[str]:
    before = tmp_path / "before.json"
    before.write_text(config_map if isinstance(config_map, str) else json.dumps(config_map))
    return subprocess.run([sys.executable, str(SCRIPT), *flags, str(before)], capture_output=True, text=True)


def patched(tmp_path: Path, config_map: dict[str, Any], *flags: str) -> dict[str, Any]:
    """The ConfigMap after the patch, as a merge patch works."""
    done = run(tmp_path, config_map, *flags)
    assert done.returncode == 0, done.stderr
    patch = json.loads(done.stdout)
    assert set(patch) == {"data"}, "a version would make the patch fail"
    return config_map | {"data": config_map["data"] | patch["data"]}


def test_the_patch_changes_two_settings_and_nothing_else(tmp_path: Path) -> None:
    found = {name: yaml.safe_load(text) for name, text in patched(tmp_path, SHIPPED)["data"].items()}
    shipped = {name: yaml.safe_load(text) for name, text in SHIPPED["data"].items()}
    assert found["workflowDefaults"]["spec"]["templateDefaults"].pop("retryStrategy") == {
        "limit": 2,
        "retryPolicy": "Always",
        "expression": 'lastRetry.status == "Error" || asInt(lastRetry.exitCode) > 0',
    }
    assert found["artifactRepository"].pop("archiveLogs") is False
    del shipped["workflowDefaults"]["spec"]["templateDefaults"]["retryStrategy"]
    del shipped["artifactRepository"]["archiveLogs"]
    assert found == shipped


def test_the_undo_restores_every_letter(tmp_path: Path) -> None:
    changed = patched(tmp_path, SHIPPED)
    done = run(tmp_path, SHIPPED, "--undo")
    assert changed["data"] | json.loads(done.stdout)["data"] == SHIPPED["data"]


def test_defaults_without_retries_get_them(tmp_path: Path) -> None:
    bare = SHIPPED | {"data": SHIPPED["data"] | {"workflowDefaults": "spec: {activeDeadlineSeconds: 9}\n"}}
    spec = yaml.safe_load(patched(tmp_path, bare)["data"]["workflowDefaults"])["spec"]
    assert spec["activeDeadlineSeconds"] == 9
    assert spec["templateDefaults"]["retryStrategy"]["limit"] == 2


@pytest.mark.parametrize("flags", [[], ["--undo"]])
def test_what_was_patched_is_no_state_to_go_back_to(flags: list[str], tmp_path: Path) -> None:
    done = run(tmp_path, patched(tmp_path, SHIPPED), *flags)
    assert done.returncode == 2
    assert "patched already" in done.stderr


@pytest.mark.parametrize(
    "config_map",
    [
        {},
        {"metadata": {"name": "workflow-controller-configmap"}},
        SHIPPED | {"metadata": {"name": "kfp-launcher"}},
        SHIPPED | {"data": {"config": "{}"}},
        "no JSON",
        "[]",
    ],
)
def test_another_file_is_one_sentence(config_map: Any, tmp_path: Path) -> None:
    done = run(tmp_path, config_map)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
