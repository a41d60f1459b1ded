"""Manifests for training on several machines, held against the models of Kubeflow Trainer's API."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api import models

from components.__main__ import _parser as components_parser
from components.catlib.recipes import RECIPE_FOLDER
from components.stages import STAGES
from pipelines.__main__ import main

ROOT = Path(__file__).parents[2]

GPU = ["--set", "resources.profile=multi-gpu", "--set", "resources.store_secret=cat-store"]
INPUT = ["--input", "dataset=s3://cat/d", "--input", "real-stats=s3://cat/r"]
INPUTS = {
    "teacher": ("dataset", "real-stats"),
    "distill": ("teacher", "student", "dataset", "real-stats"),
}


def write(folder: Path, *arguments: str, stage: str = "teacher") -> list[dict[str, Any]]:
    file = folder / "job.yaml"
    command = ["trainjob", stage, "--recipe", "map2sat", "--artifact", "s3://cat/t", "--output", str(file), *arguments]
    assert main(command) == 0
    return list(yaml.safe_load_all(file.read_text()))


def strictly(model: Any, value: dict[str, Any]) -> None:
    """Parses with the API's model and sees that nothing was unknown to it."""
    parsed = model.from_dict(value)
    assert parsed.to_dict() == value


@pytest.mark.parametrize("stage", ["teacher", "distill"])
def test_the_manifests_fit_the_api(stage: str, tmp_path: Path) -> None:
    inputs = [text for name in INPUTS[stage] for text in ("--input", f"{name}=s3://cat/{name}")]
    runtime, job = write(tmp_path, *GPU, *inputs, "--nodes", "3", stage=stage)
    strictly(models.TrainerV1alpha1TrainingRuntime, runtime)
    strictly(models.TrainerV1alpha1TrainJob, job)
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    trainer = job["spec"]["trainer"]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (3, 4)
    assert trainer["resourcesPerNode"]["limits"] == {"memory": "128Gi", "nvidia.com/gpu": "4"}
    assert job["spec"]["activeDeadlineSeconds"] == 240 * 3600


@pytest.mark.parametrize("stage", ["teacher", "distill"])
def test_the_command_is_one_that_the_stages_take(stage: str, tmp_path: Path) -> None:
    inputs = [text for name in INPUTS[stage] for text in ("--input", f"{name}=s3://cat/{name}")]
    _, job = write(tmp_path, *GPU, *inputs, "--set", f"{stage}.epochs=3", stage=stage)
    launcher, module, name, *command = job["spec"]["trainer"]["command"]
    assert (launcher, module, name) == ("torchrun", "-m", "components")
    options = components_parser().parse_args(command)
    assert options.recipe == "map2sat"
    assert f"{stage}.epochs=3" in options.set
    assert options.output == "s3://cat/t"
    given = {each.name: getattr(options, each.name) for each in STAGES[stage].inputs}
    assert given == {name.replace("-", "_"): f"s3://cat/{name}" for name in INPUTS[stage]}


def test_pods_meet_the_restricted_standard_and_know_the_store(tmp_path: Path) -> None:
    runtime, _ = write(tmp_path, *GPU, *INPUT, "--set", "resources.checkpoints=s3://cat/checkpoints")
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    (container,) = pod["containers"]
    assert container["name"] == "node"
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    optional = {
        each["name"] for each in container["env"] if each.get("valueFrom", {}).get("secretKeyRef", {}).get("optional")
    }
    assert {"AWS_SESSION_TOKEN", "CAT_WEB_TOKEN", "MLFLOW_TRACKING_TOKEN"} < optional
    needed = {each["name"] for each in container["env"]} - optional
    (uid,) = [each["valueFrom"] for each in container["env"] if each["name"] == "CAT_JOB_UID"]
    assert uid == {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/controller-uid']"}}
    store = {"S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
    ours = {"CAT_CHECKPOINTS", "CAT_CHECKPOINT_SECONDS", "CAT_WAIT_FOR_SERVERS", "CAT_JOB_UID", "CAT_ACCELERATORS"}
    assert needed == store | ours
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/dev/shm", "/tmp", "/kfp/certs"}


@pytest.mark.parametrize(("option", "name"), [([], "cat-ca"), (["--ca-config-map", "ours"], "ours")])
def test_pods_find_certificates_of_ones_own_where_runs_do(option: list[str], name: str, tmp_path: Path) -> None:
    runtime, _ = write(tmp_path, *GPU, *INPUT, *option)
    strictly(models.TrainerV1alpha1TrainingRuntime, runtime)
    pod = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "certificates"]
    assert volume["configMap"] == {"name": name, "optional": True}
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == volume["name"]]
    assert f"{mount['mountPath']}/ca.crt" in (ROOT / "k8s/README.md").read_text()
    assert mount["readOnly"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], {"CAT_CHECKPOINT_SECONDS": "120.0"}),
        (
            ["resources.checkpoint_seconds=30", "resources.log_seconds=5", "resources.keep_checkpoints=3"],
            {"CAT_CHECKPOINT_SECONDS": "30.0", "CAT_LOG_SECONDS": "5.0", "CAT_KEEP_CHECKPOINTS": "3"},
        ),
    ],
)
def test_pods_know_how_often_to_save_and_log(changes: list[str], expected: dict[str, str], tmp_path: Path) -> None:
    settings = [word for change in changes for word in ("--set", change)]
    runtime, _ = write(tmp_path, *GPU, *INPUT, *settings)
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    given = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    assert given == {"CAT_WAIT_FOR_SERVERS": "1", "CAT_ACCELERATORS": "4"} | expected


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "resources.profile=gpu", *INPUT], "resources.store_secret"),
        ([*GPU, "--input", "dataset=s3://cat/d"], "reads dataset, real-stats, but --input gives dataset"),
        ([*GPU, *INPUT, "--input", "dataset=/data"], "must be an s3:// address"),
        ([*GPU, "--input", "dataset"], "--input 'dataset' is not of the form"),
    ],
)
def test_what_several_machines_could_not_reach_is_refused(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.yaml"
    command = ["trainjob", "teacher", "--recipe", "map2sat", "--artifact", "s3://cat/t", "--output", str(file)]
    assert main([*command, *arguments]) == 2
    assert sentence in capsys.readouterr().err
    assert not file.exists()


@pytest.mark.parametrize("name", ["mine.yaml", "mine.yml"])
def test_a_recipe_of_ones_own_comes_to_the_pods(name: str, tmp_path: Path) -> None:
    recipe = tmp_path / "of mine" / name
    recipe.parent.mkdir()
    text = (RECIPE_FOLDER / "map2sat.yaml").read_text() + "\n# mine\n"
    recipe.write_text(text)
    made, runtime, job = write(tmp_path, *GPU, *INPUT, "--recipe", str(recipe), "--namespace", "mine")
    strictly(models.TrainerV1alpha1TrainingRuntime, runtime)
    strictly(models.TrainerV1alpha1TrainJob, job)
    assert (made["apiVersion"], made["kind"], made["data"]) == ("v1", "ConfigMap", {name: text})
    assert made["metadata"] == {"name": "cat-teacher-recipe", "namespace": "mine"}
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    (volume,) = [each for each in pod["volumes"] if each["name"] == "recipes"]
    assert volume["configMap"] == {"name": made["metadata"]["name"]}
    (mount,) = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == volume["name"]]
    assert mount["readOnly"] is True
    _, _, _, *command = job["spec"]["trainer"]["command"]
    assert components_parser().parse_args(command).recipe == f"{mount['mountPath']}/{name}"


def test_a_recipe_file_that_is_missing_or_holds_a_password_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "job.yaml"
    command = ["trainjob", "teacher", "--artifact", "s3://cat/t", "--output", str(file), *GPU, *INPUT, "--recipe"]
    assert main([*command, str(tmp_path / "nosuch.yaml")]) == 2
    assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "secret.yaml").write_text(
        (RECIPE_FOLDER / "map2sat.yaml").read_text() + "# https://me:letmein123@example.org/images.zip\n"
    )
    assert main([*command, str(tmp_path / "secret.yaml")]) == 2
    assert "letmein123" not in capsys.readouterr().err
    assert not file.exists()
