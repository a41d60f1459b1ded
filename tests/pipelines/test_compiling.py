"""The compiled pipelines: their parameters, tasks and placement; `test_golden.py` compares them with golden copies."""

import functools
import gzip
import json
import re
import subprocess
import sys
from typing import Any

import pytest
from google.protobuf import json_format
from kfp import components
from kfp.pipeline_spec import pipeline_spec_pb2

from components.catlib.code_digest import code_digest
from components.catlib.errors import UserError
from components.catlib.recipes import load_recipe
from pipelines.commands.here import ETCD_BYTES
from pipelines.commands.options import PIPELINE_HELP
from pipelines.compiling import PIPELINES, Compiled, compile_pipeline
from pipelines.parameters import PARAMETERS
from pipelines.tasks import stage_of

CLUSTER = ["resources.store_secret=store", "resources.checkpoints=s3://cat/checkpoints"]


@functools.cache
def compiled(pipeline: str, *overrides: str, recipe: str = "smoke") -> Compiled:
    return compile_pipeline(pipeline, load_recipe(recipe, list(overrides)), image="cat-pipeline:golden")


def loop_component(spec: dict[str, Any]) -> dict[str, Any]:
    (name,) = (name for name in spec["components"] if name.startswith("comp-for-loop"))
    return spec["components"][name]


def all_tasks(spec: dict[str, Any]) -> dict[str, Any]:
    tasks = dict(spec["root"]["dag"]["tasks"])
    del tasks[next(name for name in tasks if name.startswith("for-loop"))]
    return tasks | loop_component(spec)["dag"]["tasks"]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_kubeflow_parses_and_loads_the_file(pipeline: str) -> None:
    made = compiled(pipeline, *CLUSTER, "resources.profile=gpu")
    spec = json_format.ParseDict(made.spec, pipeline_spec_pb2.PipelineSpec())
    assert spec.pipeline_info.name == pipeline
    json_format.ParseDict(made.platform, pipeline_spec_pb2.PlatformSpec())
    loaded = components.load_component_from_text(made.text)
    assert set(loaded.component_spec.inputs or {}) == set(made.parameters)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_parameter_is_described_and_almost_all_have_defaults(pipeline: str) -> None:
    parameters = compiled(pipeline).parameters
    assert all(len(parameter["description"]) > 10 for parameter in parameters.values())
    without = {name for name, parameter in parameters.items() if not parameter.get("isOptional")}
    assert without == {"distill-only": {"teacher"}, "evaluate-only": {"students"}}.get(pipeline, set())
    assert set(PIPELINE_HELP) == set(PARAMETERS) == set(PIPELINES)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_task_uses_the_image_and_shows_figures_and_one_page_beside_its_artifact(pipeline: str) -> None:
    spec = compiled(pipeline).spec
    executors = spec["deploymentSpec"]["executors"]
    assert {executor["container"]["image"] for executor in executors.values()} == {"cat-pipeline:golden"}
    shown = {"system.Metrics", "system.Markdown", "system.HTML", "system.ClassificationMetrics"}
    for name, task in all_tasks(spec).items():
        outputs = spec["components"][task["componentRef"]["name"]]["outputDefinitions"].get("artifacts", {})
        types = [output["artifactType"]["schemaTitle"] for output in outputs.values()]
        pages = ["system.Markdown"] if name == "plan-sweep" else ["system.Metrics", "system.HTML"]
        assert sorted(kind for kind in types if kind in shown) == sorted(pages), name
        assert len(types) - len(pages) == (0 if name == "plan-sweep" else 1), "the artifact itself"


def test_a_stage_depends_on_its_own_section_the_code_and_what_lies_behind_addresses() -> None:
    """These are the parameters in Kubeflow's cache keys; no other part of a recipe may get into them."""
    keys = {
        name: {
            key: value["componentInputParameter"].removeprefix("pipelinechannel--")
            for key, value in task["inputs"]["parameters"].items()
            if key != "code_digest"
        }
        for name, task in all_tasks(compiled("compress").spec).items()
    }
    assert keys == {
        "prepare-dataset": {"config": "dataset", "source": "dataset_source", "source_version": "source_version"},
        "measure-real-images": {"config": "real_stats"},
        "train-teacher": {"config": "teacher"},
        "prune-teacher": {"config": "prune", "budget": "budgets-loop-item"},
        "distill-student": {"config": "distill"},
        "evaluate-student": {"config": "evaluate"},
        "export-student": {"config": "export"},
        "write-report": {"config": "report"},
    }


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_task_carries_the_digest_of_its_stages_code(pipeline: str) -> None:
    made = compiled(pipeline)
    found = {name: task["inputs"]["parameters"]["code_digest"] for name, task in all_tasks(made.spec).items()}
    wanted = {name: {"runtimeValue": {"constant": code_digest(stage_of(re.sub(r"-\d+$", "", name)))}} for name in found}
    assert found == wanted
    assert len(found) >= 5
    assert "code_digest" not in made.parameters


def test_a_fetched_teacher_depends_on_what_lies_behind_its_address_and_on_what_a_state_dict_does_not_tell() -> None:
    inputs = all_tasks(compiled("distill-only").spec)["fetch-teacher"]["inputs"]
    assert set(inputs["parameters"]) == {"address", "version", "config", "prune", "code_digest"}
    version = inputs["parameters"]["version"]["componentInputParameter"]
    assert version == "model_version"
    assert set(inputs["artifacts"]) == {"dataset"}


def test_trainings_link_to_tensorboard_only_on_request_and_then_do_not_run_again() -> None:
    usual, linked = compiled("compress", *CLUSTER), compiled("compress", *CLUSTER, "resources.tensorboard=true")
    before, after = all_tasks(usual.spec), all_tasks(linked.spec)
    assert set(after) - set(before) == {"show-tensorboard", "show-tensorboard-2"}
    assert {name: after[name] for name in before} == before
    assert "mlpipeline_ui_metadata" not in usual.text
    for name, component in usual.spec["components"].items():
        if "dag" not in component:
            assert linked.spec["components"][name] == component, "the outputs are part of the cache key"
    sources = {
        next(iter(after[name]["inputs"]["artifacts"].values()))["taskOutputArtifact"]["producerTask"]
        for name in ("show-tensorboard", "show-tensorboard-2")
    }
    assert sources == {"train-teacher", "distill-student"}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_what_a_person_looks_at_first_stands_first_in_the_form(pipeline: str) -> None:
    """The API sorts parameters by name, and the interface's form keeps that order."""
    budgets = [] if pipeline == "evaluate-only" else ["budgets"]
    first = ["base_recipe", *budgets, "dataset", "dataset_source"]
    assert sorted(compiled(pipeline).parameters)[: len(first)] == first
    assert compiled(pipeline).parameters["base_recipe"]["defaultValue"] == "smoke"


def test_only_the_report_is_always_made_anew_on_a_cluster() -> None:
    tasks = all_tasks(compiled("compress").spec)
    uncached = {name for name, task in tasks.items() if not task["cachingOptions"].get("enableCache")}
    assert uncached == {"write-report"}


# ----------------------------------------------------------------------------------------------------------- resources


def kubernetes_of(made: Compiled) -> dict[str, Any]:
    return made.platform["platforms"]["kubernetes"]


@pytest.mark.parametrize(
    ("profile", "gpus"),
    [
        ("cpu", {}),
        ("gpu", {"measure-real-images": 1, "train-teacher": 1, "distill-student": 1, "evaluate-student": 1}),
        ("multi-gpu", {"measure-real-images": 1, "train-teacher": 4, "distill-student": 4, "evaluate-student": 1}),
    ],
)
def test_profiles_decide_who_gets_accelerators(profile: str, gpus: dict[str, int]) -> None:
    gpus = {f"exec-{task}": count for task, count in gpus.items()}
    made = compiled("compress", f"resources.profile={profile}")
    resources = {
        name: each["container"]["resources"] for name, each in made.spec["deploymentSpec"]["executors"].items()
    }
    found = {name: int(each["accelerator"]["count"]) for name, each in resources.items() if "accelerator" in each}
    assert found == gpus
    assert all(each["memoryRequest"] == each["memoryLimit"] for each in resources.values())
    tolerant = {
        name for name, each in kubernetes_of(made)["deploymentSpec"]["executors"].items() if "tolerations" in each
    }
    assert tolerant == set(gpus)


def test_a_recipe_changes_single_values_of_its_profile() -> None:
    made = compiled(
        "compress",
        "resources.profile=gpu",
        "resources.stages.teacher={gpus: 2, memory: 64Gi, hours: 48, retries: 1}",
        "resources.accelerator=amd.com/gpu",
        "resources.node_selector={pool: training}",
        "resources.days_limit=3",
        "resources.days_kept=0.5",
        "resources.parallel_students=2",
    )
    resources = made.spec["deploymentSpec"]["executors"]["exec-train-teacher"]["container"]["resources"]
    amd = {"count": "2", "resourceCount": "2", "type": "amd.com/gpu", "resourceType": "amd.com/gpu"}
    assert resources["accelerator"] == amd
    assert resources["memoryLimit"] * 1e9 == 64 * 2**30
    teacher = kubernetes_of(made)["deploymentSpec"]["executors"]["exec-train-teacher"]
    assert teacher["activeDeadlineSeconds"] == str(48 * 3600)
    assert teacher["nodeSelector"]["labels"] == {"pool": "training"}
    assert kubernetes_of(made)["pipelineConfig"] == {
        "activeDeadlineSeconds": 3 * 86400,
        # Kubeflow's settings add the latter two, an hour each, to a run that lacks them, and then these two win.
        **dict.fromkeys(("resourceTtlOnCompletion", "resourceTtlOnSuccess", "resourceTtlOnFailure"), 43200),
    }
    loop = next(task for name, task in made.spec["root"]["dag"]["tasks"].items() if name.startswith("for-loop"))
    assert loop["iteratorPolicy"] == {"parallelismLimit": 2}


def test_a_training_of_days_is_tried_again() -> None:
    """Kubeflow's own default gives up on a task that began more than an hour ago."""
    policy = all_tasks(compiled("compress", "resources.profile=gpu").spec)["train-teacher"]["retryPolicy"]
    assert policy["maxRetryCount"] == 5
    assert float(policy["backoffMaxDuration"].removesuffix("s")) >= 10 * 86400 * 5
    assert policy["backoffDuration"] == "60s"


def test_the_store_and_the_checkpoints_are_given_through_the_environment() -> None:
    made = compiled("compress", *CLUSTER)
    per_task = kubernetes_of(made)["deploymentSpec"]["executors"]
    for name, given in per_task.items():
        assert {secret["secretName"] for secret in given["secretAsEnv"]} == {"store"}, name
        variables = {
            secret["optional"]: {pair["envVar"] for pair in secret["keyToEnv"]} for secret in given["secretAsEnv"]
        }
        assert variables[False] == {"S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}
        assert {
            "AWS_SESSION_TOKEN",
            "AWS_REGION",
            "AWS_CA_BUNDLE",
            "CAT_WEB_TOKEN",
            "MLFLOW_TRACKING_PASSWORD",
        } < variables[True]
    containers = {name: each["container"] for name, each in made.spec["deploymentSpec"]["executors"].items()}
    place, often = ("CAT_CHECKPOINTS", "s3://cat/checkpoints"), ("CAT_CHECKPOINT_SECONDS", "120.0")
    for name, container in containers.items():  # every stage leaves its refusals there, trainings their state
        trains = name in ("exec-train-teacher", "exec-distill-student")
        given = {(each["name"], each["value"]) for each in container["env"]}
        assert given == ({place, often} if trains else {place}), name


def test_without_a_place_no_stage_gets_one_and_trainings_know_how_often_to_save_all_the_same() -> None:
    for name, executor in compiled("compress").spec["deploymentSpec"]["executors"].items():
        often = [{"name": "CAT_CHECKPOINT_SECONDS", "value": "120.0"}]
        trains = name in ("exec-train-teacher", "exec-distill-student")
        assert executor["container"].get("env", []) == (often if trains else []), name


def test_how_often_to_save_and_log_reaches_trainings_through_the_environment_alone() -> None:
    """So a change of it makes nothing run again: Kubeflow's cache keys hold parameters, not the environment."""
    upkeep = {"checkpoint_seconds": 45, "keep_checkpoints": 4, "log_seconds": 2.5}
    made = compiled("compress", *CLUSTER, *(f"resources.{name}={value}" for name, value in upkeep.items()))
    usual = compiled("compress", *CLUSTER)
    assert made.parameters == usual.parameters
    assert not any(name in json.dumps(made.parameters) for name in upkeep)
    for task in ("exec-train-teacher", "exec-distill-student"):
        container = made.spec["deploymentSpec"]["executors"][task]["container"]
        assert {each["name"]: each["value"] for each in container["env"]} == {
            "CAT_CHECKPOINTS": "s3://cat/checkpoints",
            "CAT_CHECKPOINT_SECONDS": "45.0",
            "CAT_KEEP_CHECKPOINTS": "4",
            "CAT_LOG_SECONDS": "2.5",
        }


def test_no_pod_runs_as_root_and_trainings_share_enough_memory() -> None:
    per_task = kubernetes_of(compiled("sweep"))["deploymentSpec"]["executors"]
    assert all(given["securityContext"] == {"runAsNonRoot": True} for given in per_task.values())
    assert per_task["exec-train-teacher"]["emptyDirMounts"] == [
        {"mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "2Gi", "volumeName": "shared-memory"}
    ]


# ----------------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"budget": ["0.1x"]}, "has no parameter 'budget'"),
        ({"budgets": "0.1x"}, "is a list, not '0.1x'"),
        ({"teacher": "s3://b/t"}, "is a mapping, not 's3://b/t'"),
        ({"source_version": True}, "is a text, not True"),
        ({"code_digest": ""}, "has no parameter 'code_digest'"),
    ],
)
def test_arguments_that_kubeflows_client_would_take_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        compiled("compress").check_arguments(arguments)


def test_an_argument_without_a_default_must_be_given() -> None:
    made = compiled("distill-only")
    with pytest.raises(UserError, match="needs teacher: Address of the teacher's artifact"):
        made.check_arguments({})
    made.check_arguments({"teacher": "s3://b/t", "budgets": ["0.1x"]})


# --------------------------------------------------------------------------------------------------------------- sizes


def workflow_bytes(made: Compiled, *, students: int) -> tuple[int, int]:
    """Estimates the workflow that Kubeflow makes of a run: as it begins, and with the state of all of its nodes.

    Kubeflow's backend puts component, implementation and Kubernetes settings of every task into the workflow once.
    While it runs, Argo notes for every node its inputs; three nodes of a task carry the patch of its pod, which holds
    command, arguments and settings. Argo compresses the notes when the workflow becomes large.
    """
    begun = len(json.dumps(made.spec)) + len(json.dumps(made.platform)) + 30_000
    patches = []
    for name, task in all_tasks(made.spec).items():
        executor = made.spec["components"][task["componentRef"]["name"]]["executorLabel"]
        settings = {key: parameter.get("defaultValue") for key, parameter in made.parameters.items()}
        patch = json.dumps([made.spec["deploymentSpec"]["executors"][executor], settings])
        in_loop = name in loop_component(made.spec)["dag"]["tasks"]
        patches += [patch] * 3 * (students if in_loop else 1)
    nodes = "".join(f'{{"id":"{i}","name":"{i * 7919}",{"x" * 1000},{patch}}}' for i, patch in enumerate(patches))
    return begun, begun + len(gzip.compress(nodes.encode()))


@pytest.mark.parametrize("recipe", ["demo", "cityscapes-gaugan-5g6"])
def test_a_run_with_five_budgets_is_far_from_what_kubernetes_stores(recipe: str) -> None:
    made = compile_pipeline(
        "compress",
        load_recipe(recipe, ["resources.profile=gpu", *CLUSTER], ["1e9", "2e9", "3e9", "4e9", "5e9"]),
        image="cat-pipeline:golden",
    )
    begun, running = workflow_bytes(made, students=5)
    assert len(made.text) < ETCD_BYTES / 15
    assert begun < ETCD_BYTES / 8
    assert running < ETCD_BYTES / 4


def test_building_the_pipelines_loads_no_heavy_library() -> None:
    heavy = "('torch', 'numpy', 'onnx', 'matplotlib')"
    script = f"import sys, pipelines.compiling; print([m for m in {heavy} if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
