"""What is wrong with a run is found before it starts: on this machine, in the store, and on the cluster."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from components.catlib.artifacts import writing
from components.catlib.errors import UserError
from components.catlib.exporting import profile_rules
from components.catlib.networks.architecture_files import write_architecture
from components.catlib.networks.directions import Direction
from components.catlib.networks.families import architecture_from_config
from components.catlib.recipes import load_recipe
from components.catlib.storage import Storage
from pipelines.__main__ import main
from pipelines.api import compile_recipe
from pipelines.parameters import with_arguments
from pipelines.preflight import Plan, findings
from tests.object_stores import SeaweedServer, seaweed_server
from tests.pipelines.kubeflow_server import KubeflowServer, kubeflow
from tests.web_servers import web_server

IMAGE = "registry.example/team/cat-pipeline:1"
STAGES = ("teacher", "distill")
SECRET = "resources.store_secret=cat-store"


def found(
    *overrides: str,
    pipeline: str = "compress",
    arguments: dict[str, Any] | None = None,
    image: str | None = IMAGE,
    in_pods: bool = True,
    **place: Any,
) -> tuple[list[str], list[str]]:
    """Returns what is certainly wrong with a run, and what may be."""
    recipe = with_arguments(load_recipe("smoke", list(overrides)), pipeline, arguments or {})
    plan = Plan(pipeline, recipe, arguments or {}, image=image, in_pods=in_pods, **place)
    both: tuple[list[str], list[str]] = ([], [])
    for finding in findings(plan):
        sentence = str(finding.error)
        assert sentence.endswith(".")
        assert not re.search(r"\. [A-Z]", sentence), "one sentence"
        both[not finding.certain].append(sentence)
    return both


def one(sentences: tuple[list[str], list[str]], *, certain: bool) -> str:
    (sentence,) = sentences[not certain]
    assert sentences[certain] == []
    return sentence


@pytest.fixture(autouse=True)
def no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_nothing_is_wrong_with_the_smallest_recipe() -> None:
    assert found() == found(in_pods=False, image=None) == ([], [])


# ---------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "setting",
    ["dataset.source", "teacher.published.generator.uri", "evaluate.lpips.weights.uri"],
)
def test_pods_do_not_see_paths_of_this_machine(setting: str, tmp_path: Path) -> None:
    for path in (tmp_path, "some/where", "nowhere.zip"):
        sentence = one(found(f"{setting}={path}"), certain=True)
        assert sentence.startswith(f"{setting} {path} is a path on this machine, which pods do not see")
    elsewhere = found(f"{setting}=/data/baked-in", image="registry.example/mine:1")
    assert "pods find only if image registry.example/mine:1 holds it" in one(elsewhere, certain=False)


def test_sections_that_no_stage_of_the_pipeline_gets_do_not_count(tmp_path: Path) -> None:
    weights = f"teacher.published.generator.uri={tmp_path}/w.pth"
    arguments = {"students": ["s3://cat/student"]}
    sentences = found(weights, SECRET, pipeline="evaluate-only", arguments=arguments)
    assert "cannot be looked at from here" in one(sentences, certain=False)


def test_a_dataset_behind_a_registration_is_no_source_for_pods() -> None:
    assert "pods cannot download it" in one(found("dataset.source=cityscapes"), certain=True)
    assert found("dataset.source=horse2zebra") == ([], [])


def test_a_path_must_exist_where_the_run_is(tmp_path: Path) -> None:
    local = {"in_pods": False, "image": None}
    assert "does not exist on this machine" in one(found(f"dataset.source={tmp_path}/none", **local), certain=True)
    (tmp_path / "notes.txt").write_text("no image")
    assert "neither images nor archives" in one(found(f"dataset.source={tmp_path}", **local), certain=True)
    (tmp_path / "deep/er").mkdir(parents=True)
    (tmp_path / "deep/er/a.png").write_bytes(b"png")
    assert found(f"dataset.source={tmp_path}", **local) == ([], [])
    assert "does not exist" in one(
        found(pipeline="distill-only", arguments={"teacher": "gone/teacher"}, **local), certain=True
    )


LOCAL: dict[str, Any] = {"in_pods": False, "image": None}

WEIGHTS = {
    "evaluate.lpips.weights.uri": [],
    "evaluate.segmenter.weights.uri": [],
    "distill.segmenter.weights.uri": [],
    "real_stats.weights.uri": ["real_stats.features=inception"],
    "real_stats.published.uri": ["real_stats.features=inception", "real_stats.weights.uri=HERE"],
    "teacher.reconstruction.weights.uri": ["teacher.reconstruction=vgg"],
    "distill.reconstruction.weights.uri": ["distill.reconstruction=vgg"],
    "teacher.published.generator.uri": [],
    "teacher.published.discriminator.uri": [],
    "distill.published.generator.uri": [],
    "distill.published.discriminator.uri": [],
}


@pytest.mark.parametrize("setting", WEIGHTS)
def test_every_file_that_a_stage_will_read_is_looked_at(setting: str, tmp_path: Path) -> None:
    (tmp_path / "here.pth").write_bytes(b"weights")
    others = [change.replace("HERE", str(tmp_path / "here.pth")) for change in WEIGHTS[setting]]
    assert found(*others, f"{setting}={tmp_path}/here.pth", **LOCAL) == ([], [])

    def about(address: str, *more: str) -> str:
        return one(found(*others, f"{setting}={address}", *more, **LOCAL), certain=True)

    assert f"{setting} {tmp_path}/gone.pth does not exist on this machine" in about(f"{tmp_path}/gone.pth")
    assert f"{setting} {tmp_path} is a folder, but a file is needed" in about(str(tmp_path))
    (tmp_path / "empty.pth").touch()
    assert f"{setting} {tmp_path}/empty.pth is an empty file" in about(f"{tmp_path}/empty.pth")
    assert "cannot be read (File name too long)" in about("x" * 300)
    digest = f"{setting.removesuffix('uri')}sha256"
    said = about(f"{tmp_path}/here.pth", f"{digest}={'0' * 64}")
    assert f"but {digest} is {'0' * 64}; fetch the file again, or set {digest} to " in said
    right = hashlib.sha256(b"weights").hexdigest()
    assert f"set {digest} to {right} if this file is right" in said
    assert found(*others, f"{setting}={tmp_path}/here.pth", f"{digest}={right}", **LOCAL) == ([], [])


def test_a_wrong_digest_of_an_archive_of_images_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"archive")
    changes = [f"dataset.source={tmp_path}/a.zip", f"dataset.sha256={'0' * 64}"]
    assert f"but dataset.sha256 is {'0' * 64}; fetch" in one(found(*changes, **LOCAL), certain=True)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/a.png").write_bytes(b"png")
    changes = [f"dataset.source={tmp_path}/folder", f"dataset.sha256={'0' * 64}"]
    assert "is a folder; remove dataset.sha256" in one(found(*changes, **LOCAL), certain=True)


def test_a_dataset_behind_a_registration_must_be_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = one(found("dataset.source=cityscapes", **LOCAL), certain=True)
    assert "is not in datasets/cityscapes/ and needs a registration" in said
    (tmp_path / "datasets/cityscapes").mkdir(parents=True)
    assert found("dataset.source=cityscapes", **LOCAL) == ([], [])


CYCLEGAN = [
    "teacher={family: cyclegan, generator: {base_channels: 8, num_blocks: 2}, batch_size: 8, epochs: 1, evaluations: 1}"
]
NO_EVALUATION = ["teacher.evaluations=0", "teacher.segmenter.weights.uri=gone.pth"]


@pytest.mark.parametrize(
    ("changes", "pipeline", "arguments"),
    [
        (["real_stats.weights.uri=gone.pth"], "compress", {}),  # of random features
        (NO_EVALUATION, "compress", {}),
        (["distill.published.generator_backward.uri=gone.pth", *CYCLEGAN], "compress", {}),
        (["teacher.reconstruction={kind: vgg, weights: {uri: gone.pth}}"], "distill-only", {"teacher": "HERE"}),
        (["distill.reconstruction={kind: vgg, weights: {uri: gone.pth}}"], "evaluate-only", {"students": ["HERE"]}),
        (
            [
                "distill.reconstruction={kind: vgg, weights: {uri: gone.pth}}",
                "sweep.variations=[{reconstruction: l1}, {reconstruction: l2}]",
            ],
            "sweep",
            {},
        ),
    ],
)
def test_files_that_no_stage_will_read_need_not_be_there(
    changes: list[str], pipeline: str, arguments: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "here.pth").write_bytes(b"weights")
    arguments = json.loads(json.dumps(arguments).replace("HERE", str(tmp_path / "here.pth")))
    assert found(*changes, pipeline=pipeline, arguments=arguments, **LOCAL) == ([], [])


def test_the_file_of_a_loss_that_is_turned_off_is_not_read() -> None:
    def about(weight: int) -> list[str]:
        changes = [f"{stage}.perceptual={{weight: {weight}, weights: {{uri: gone.pth}}}}" for stage in STAGES]
        plan = Plan("compress", load_recipe("demo-labels", changes), {})
        return [str(each.error) for each in findings(plan)]

    assert about(0) == []
    (said,) = about(1)  # both name the same file
    assert said.startswith("teacher.perceptual.weights.uri gone.pth does not exist")


def test_the_files_of_variations_are_looked_at() -> None:
    change = "sweep.variations=[{}, {reconstruction: {kind: vgg, weights: {uri: gone.pth}}}]"
    said = one(found(change, pipeline="sweep", **LOCAL), certain=True)
    assert said.startswith("sweep.variations[1].reconstruction.weights.uri gone.pth does not exist")
    assert found(change, **LOCAL) == ([], [])


def test_a_published_teacher_of_an_earlier_run_brings_its_discriminator(tmp_path: Path) -> None:
    (tmp_path / "here.pth").write_bytes(b"weights")
    changes = ["teacher.published={generator: {uri: gone1.pth}, discriminator: {uri: gone2.pth}}"]
    arguments = {"teacher": f"{tmp_path}/here.pth"}
    said = one(found(*changes, pipeline="distill-only", arguments=arguments, **LOCAL), certain=True)
    assert said.startswith("teacher.published.discriminator.uri gone2.pth does not exist")


def test_an_earlier_model_must_be_an_artifact_of_its_kind(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    arguments = {"teacher": str(tmp_path / "empty")}
    assert "is not a teacher artifact" in one(
        found(pipeline="distill-only", arguments=arguments, **LOCAL), certain=True
    )


def test_an_earlier_teacher_must_be_one_and_fit_the_recipe(tmp_path: Path) -> None:
    smoke, start = load_recipe("smoke"), f"teacher.start_from={tmp_path / 'teacher'}"
    size = smoke.dataset.crop_size
    generator = architecture_from_config(smoke.teacher.generator, in_channels=3, out_channels=3, crop_size=size)
    with writing(tmp_path / "teacher", kind="teacher", config=smoke.teacher) as writer:
        write_architecture(writer.folder, Direction.SOURCE_TO_TARGET, generator, size)
    assert found(start, in_pods=False) == ([], [])
    wider = one(found(start, "teacher.generator.base_channels=24", in_pods=False), certain=True)
    assert f"set teacher.generator.base_channels={smoke.teacher.generator.base_channels}" in wider
    other = one(found(start, "teacher.family=cyclegan", in_pods=False), certain=True)
    assert "is a teacher of family pix2pix, but teacher.family is cyclegan" in other
    with writing(tmp_path / "images", kind="dataset", config=smoke.dataset):
        pass
    (tmp_path / "x.pth").mkdir()
    images = one(found(f"teacher.start_from={tmp_path / 'images'}", in_pods=False), certain=True)
    assert "dataset" in images and "teacher" in images
    gone = one(found(f"teacher.start_from={tmp_path / 'gone'}", in_pods=False), certain=True)
    assert gone.startswith(f"teacher.start_from.uri {tmp_path}/gone does not exist on this machine")
    folder = one(found(f"teacher.start_from={tmp_path / 'x'}.pth", in_pods=False), certain=True)
    assert "a file is needed" in folder
    assert "cannot be read (File name too long)" in one(
        found(f"teacher.start_from={'x' * 300}", in_pods=False), certain=True
    )


@pytest.mark.parametrize("students", [[], "", [""], [3]])
def test_models_must_be_addresses(students: Any) -> None:
    certain, _ = found(pipeline="evaluate-only", arguments={"students": students})
    assert certain[0].startswith("Argument students ")


# ------------------------------------------------------------------------------------------------------------ the store


@pytest.mark.parametrize(
    ("overrides", "setting"),
    [
        (["dataset.source=s3://cat/images"], "dataset.source"),
        (["evaluate.lpips.weights.uri=s3://cat/w.pth"], "evaluate.lpips.weights.uri"),
        (["resources.checkpoints=s3://cat/checkpoints"], "resources.checkpoints"),
        (["publish.to=s3://cat/models"], "publish.to"),
        (["dataset.source=minio://cat/images"], "dataset.source"),
    ],
)
def test_addresses_in_the_store_need_its_secret(overrides: list[str], setting: str) -> None:
    certain, _ = found(*overrides)
    assert [sentence.partition(" ")[0] for sentence in certain] == [setting]
    assert "resources.store_secret names no Secret" in certain[0]
    certain, doubtful = found(*overrides, service_account="federated")
    assert certain == []
    assert any("service account federated gives them" in sentence for sentence in doubtful)
    assert found(*overrides, SECRET)[0] == []


@pytest.mark.parametrize("setting", ["resources.checkpoints", "publish.to"])
def test_what_a_pod_writes_to_its_own_disk_is_lost_with_it(setting: str, tmp_path: Path) -> None:
    sentence = one(found(f"{setting}=/tmp/x"), certain=True)
    assert sentence == (
        f"{setting} /tmp/x is lost with the pod that writes it; give an address in the store, s3://BUCKET/FOLDER."
    )
    asked = load_recipe("smoke", [f"{setting}={tmp_path / 'x'}"])
    here = [list(findings(Plan("compress", asked, {}, image=image))) for image in (None, "cat-pipeline:1")]
    in_containers = [str(finding.error) for finding in here[1]]
    assert [len(each) for each in here] == [0, setting == "publish.to"]  # containers have checkpoints of their own
    assert all("lost with the container that writes it" in each for each in in_containers)
    with pytest.raises(UserError, match="lost with the pod"):
        compile_recipe("smoke", overrides=[f"{setting}={tmp_path / 'x'}"], pin=False)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("place", ["/dev/null/models", "x" * 300])
def test_a_folder_that_cannot_be_published_to_is_found_before_the_training(place: str) -> None:
    (finding,) = findings(Plan("compress", load_recipe("smoke", [f"publish.to={place}", "publish.name=small"]), {}))
    assert finding.certain
    assert str(finding.error) == f"publish.to {place} cannot be written on this machine; choose another folder."


def test_a_pipeline_without_students_does_not_publish() -> None:
    students = {"students": ["s3://cat/a"]}
    said = found("publish.to=s3://cat/models", SECRET, pipeline="evaluate-only", arguments=students)[1]
    assert "Pipeline evaluate-only makes no students, so publish.to has no effect." in said


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("setting", ["speed=fast", "precision=fp16"])
def test_what_needs_a_gpu_is_refused_where_the_stage_gets_none(
    stage: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, value = setting.split("=")
    sentence = one(found(f"{stage}.{setting}"), certain=True)
    assert sentence == (
        f"{stage}.{name}: {value} needs a GPU, and the stage {stage} gets no accelerator; set resources.profile to gpu."
    )
    assert found(f"{stage}.{setting}", f"resources.stages={{{stage}: {{gpus: 1}}}}")[0] == []
    assert found(f"{stage}.{setting}", "resources.profile=gpu")[0] == []
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    here = one(found(f"{stage}.{setting}", in_pods=False, image=None), certain=False)
    assert here.startswith(f"{stage}.{name}: {value} needs a GPU of CUDA, and this machine has none")
    assert found(f"{stage}.{setting}", in_pods=False) == ([], []), (
        "a container may see a GPU that this process does not"
    )
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert found(f"{stage}.{setting}", in_pods=False, image=None) == ([], [])


def test_profiles_that_the_export_cannot_write_are_refused_before_the_trainings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert found("export.profiles=[onnxruntime,static,snapml]") == ([], [])
    monkeypatch.setattr(profile_rules, "find_spec", lambda name: None)
    asked = "export.profiles=[coreml]"
    assert "The profile coreml needs the package coremltools" in one(
        found(asked, in_pods=False, image=None), certain=True
    )
    assert "the project's image does not hold" in one(found(asked), certain=False)
    monkeypatch.setattr(profile_rules, "find_spec", lambda name: True)
    assert found(asked, in_pods=False, image=None) == ([], [])
    deep = ("export.profiles=[snapml]", "dataset.target_values={type: uint16, channels: 1}")
    assert "the target images is uint16 of 1 channels" in one(found(*deep), certain=True)


@pytest.mark.parametrize("profile", ["gpu", "multi-gpu"])
def test_accelerators_without_checkpoints_are_doubtful(profile: str) -> None:
    gpus = f"resources.profile={profile}"
    assert "keep no checkpoints" in one(found(gpus), certain=False)
    assert found(gpus, "resources.checkpoints=s3://cat/c", SECRET) == ([], [])
    assert found(gpus, in_pods=False, image=None) == ([], [])
    assert found("resources.stages.teacher.gpus=1")[1] != []


def test_a_store_that_cannot_be_asked_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "dataset.source=s3://cat/images"
    sentence = one(found(source, SECRET), certain=False)
    assert sentence.startswith("dataset.source s3://cat/images cannot be looked at from here, because S3_ENDPOINT is")
    monkeypatch.setenv("S3_ENDPOINT", "http://cat-store.kubeflow.invalid:9000")
    assert "AWS_ACCESS_KEY_ID is not set" in one(found(source, SECRET), certain=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    assert "as that of a service inside a cluster is" in one(found(source, SECRET), certain=False)
    monkeypatch.setenv("S3_ENDPOINT", "http://127.0.0.1:1")
    assert "did not answer" in one(found(source, SECRET), certain=True)


@pytest.fixture(scope="module")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedServer]:
    with seaweed_server(tmp_path_factory.mktemp("store") / "data") as server:
        store = Storage(server.environment)
        store.make_bucket("s3://cat")
        file = tmp_path_factory.mktemp("file") / "file"
        file.write_bytes(b"content")
        for name in ("images/a.png", "archives/a.tar.gz", "texts/a.txt", "one.zip"):
            store.upload_file(file, f"s3://cat/{name}")
        yield server


@pytest.mark.parametrize("name", ["cat_store", "Cat-Store", "-cat", "cat-", "cat/store", "a" * 254])
def test_a_secret_has_a_name_that_kubernetes_takes(name: str) -> None:
    assert "is no name that a Secret can have" in one(found(f"resources.store_secret={name}"), certain=True)


@pytest.mark.parametrize("setting", ["resources.checkpoints", "publish.to"])
def test_the_buckets_that_are_written_to_are_looked_for(
    setting: str, object_store: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"{setting}=s3://dog/checkpoints"
    assert found(SECRET, place) == ([], []), "the store cannot be asked from here"
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    sentence = one(found(SECRET, place), certain=True)
    assert sentence.startswith(f"{setting} s3://dog/checkpoints: The object store at ")
    assert "has no bucket 'dog'" in sentence
    assert found(SECRET, f"{setting}=s3://cat/checkpoints") == ([], [])


@pytest.mark.parametrize("in_pods", [True, False])
def test_addresses_in_the_store_are_looked_at(
    in_pods: bool, object_store: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)

    def about(address: str) -> tuple[list[str], list[str]]:
        return found(f"dataset.source={address}", SECRET, in_pods=in_pods)

    for address in ("s3://cat/images", "s3://cat/archives", "s3://cat/one.zip", "s3://cat"):
        assert about(address) == ([], [])
    assert "holds nothing" in one(about("s3://cat/imags"), certain=True)
    assert "neither images nor archives" in one(about("s3://cat/texts"), certain=True)
    assert "has no bucket 'dog'" in one(about("s3://dog/images"), certain=True)
    assert found("teacher.start_from=s3://cat/images", SECRET, in_pods=in_pods) == ([], []), "a teacher is a folder"
    weights = one(found("evaluate.lpips.weights.uri=s3://cat/images", SECRET, in_pods=in_pods), certain=True)
    assert "is a folder, but a file is needed" in weights
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "refuses the credentials" in one(about("s3://cat/images"), certain=True)


def test_addresses_of_the_web_are_looked_at() -> None:
    with web_server() as server:
        server.files["/a.zip"] = b"content"
        assert found(f"dataset.source={server.url('/a.zip')}") == ([], [])
        assert "does not exist (HTTP status 404)" in one(found(f"dataset.source={server.url('/b.zip')}"), certain=True)
        server.authorization = "Bearer secret"
        assert "cannot be looked at" in one(found(f"dataset.source={server.url('/a.zip')}"), certain=False)


# ----------------------------------------------------------------------------------------------- students, image, root


def test_a_cluster_loses_track_of_long_loops() -> None:
    budgets = [f"0.{number}x" for number in range(20, 33)]
    assert "13 budgets make 13 students" in one(found(arguments={"budgets": budgets}), certain=True)
    assert found(arguments={"budgets": budgets[:12]}) == ([], [])
    assert found(arguments={"budgets": budgets}, in_pods=False, image=None) == ([], [])
    students = {"students": [f"s3://cat/{number}" for number in range(13)]}
    assert "13 students make" in found(SECRET, pipeline="evaluate-only", arguments=students)[0][0]


def test_an_image_without_a_registry_may_be_on_the_nodes() -> None:
    assert "names no registry" in one(found(image="cat-pipeline:1"), certain=False)
    assert found(image="localhost:5000/cat:1") == found(image="team/cat:1") == ([], [])


@pytest.mark.parametrize("root", ["/tmp/artifacts", "http://store/x", "file:///x", "S3://cat/x", "s3://", "artifacts"])
def test_a_root_is_an_address_that_the_launcher_knows(root: str) -> None:
    assert f"--root {root} is no place" in one(found(root=root), certain=True)


@pytest.mark.parametrize("root", ["minio://cat/x", "s3://cat/x", "gs://cat/x"])
def test_known_roots_pass(root: str) -> None:
    assert found(root=root) == ([], [])


# ---------------------------------------------------------------------------------------------------------- the cluster


@pytest.fixture
def server() -> Iterator[KubeflowServer]:
    with kubeflow(KubeflowServer()) as server:
        yield server


def command(server: KubeflowServer, *more: str, name: str = "validate") -> list[str]:
    return [name, "--recipe", "smoke", "--host", server.host, "--image", IMAGE, *more]


@pytest.mark.parametrize("name", ["validate", "submit"])
@pytest.mark.parametrize("field", ["tag_name", "apiServerTagName"])
@pytest.mark.parametrize(
    ("version", "code", "said"),
    [
        ("2.17.0", 0, ""),
        ("v2.17.1", 0, ""),
        ("3.0.0", 0, ""),
        ("2.16.1", 2, "is version 2.16.1 here, which would drop"),
        ("2.5.0-rc.1", 2, "is version 2.5.0-rc.1 here"),
        ("1.8.5", 2, "upgrade it to 2.17 or newer"),
        ("master", 0, "warning: Kubeflow Pipelines does not state its version (master)"),
        ("", 0, "warning: Kubeflow Pipelines does not state its version (none)"),
    ],
)
def test_older_versions_are_refused_and_unknown_ones_named(
    name: str,
    field: str,
    version: str,
    code: int,
    said: str,
    server: KubeflowServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "_health", lambda **_: (200, {field: version, "multi_user": False}))
    assert main(command(server, name=name)) == code
    err = capsys.readouterr().err
    assert said in err
    assert ("version" in err) == bool(said)
    assert len(server.runs) == (name == "submit" and code == 0)


def test_validate_with_a_host_refuses_what_submit_refuses(
    server: KubeflowServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("validate", "submit"):
        assert main(command(server, "--set", f"dataset.source={tmp_path}", "--root", "/x", name=name)) == 2
        first, last = capsys.readouterr().err.splitlines()
        assert first.startswith(f"error: dataset.source {tmp_path} is a path")
        assert last.startswith("error: --root /x is no place")
    assert server.requests == [], "nothing was asked or sent"


def test_without_the_kubernetes_api_a_secret_is_named(
    server: KubeflowServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(server, "--set", SECRET)) == 0
    assert "warning: Secret cat-store of resources.store_secret cannot be looked at through --host" in (
        capsys.readouterr().err
    )


class KubernetesServer:
    """A stand-in for the Kubernetes API: objects by path; None is one that may not be read."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, str] | None] = {}

    def answer(self, path: str) -> tuple[int, dict[str, Any]]:
        kind = path.split("/")[-2]
        if path not in self.objects:
            return 404, {"kind": "Status", "reason": "NotFound", "code": 404}
        data = self.objects[path]
        if data is None:
            return 403, {"kind": "Status", "reason": "Forbidden", "code": 403}
        return 200, {"kind": {"secrets": "Secret", "configmaps": "ConfigMap"}[kind], "data": data}


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesServer]:
    """A cluster that the context `lab` of the kubeconfig names."""
    made = KubernetesServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, value = made.answer(self.path)
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "other",
            "contexts": [{"name": "lab", "context": {"cluster": "k", "user": "u"}}],
            "clusters": [{"name": "k", "cluster": {"server": f"http://127.0.0.1:{http.server_address[1]}"}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
        }
        (tmp_path / "config").write_text(json.dumps(config))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "config"))
        yield made
        http.shutdown()
        thread.join()


KEYS = {"S3_ENDPOINT": "aHR0cA==", "AWS_ACCESS_KEY_ID": "YQ==", "AWS_SECRET_ACCESS_KEY": "Yg=="}


@pytest.mark.parametrize(
    ("secret", "code", "said"),
    [
        (KEYS, 0, ""),
        ("missing", 2, "Secret cat-store of resources.store_secret does not exist in namespace kubeflow"),
        ({"accesskey": "YQ=="}, 2, "has no S3_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"),
        (None, 0, "warning: Secret cat-store of resources.store_secret cannot be looked at in namespace kubeflow"),
    ],
)
def test_the_secret_is_looked_at_through_the_kubernetes_api(
    secret: Any,
    code: int,
    said: str,
    server: KubeflowServer,
    kubernetes: KubernetesServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if secret != "missing":
        kubernetes.objects["/api/v1/namespaces/kubeflow/secrets/cat-store"] = secret
    assert main(command(server, "--kube-context", "lab", "--set", SECRET)) == code
    err = capsys.readouterr().err
    assert said in err
    assert ("Secret" in err) == bool(said)
    assert "YQ==" not in err


SHIPPED = "spec: {templateDefaults: {retryStrategy: {limit: 2, retryPolicy: OnError}}}"
WORKS = (
    "spec: {templateDefaults: {retryStrategy: {limit: 2, retryPolicy: Always, expression: "
    "'lastRetry.status == \"Error\"'}}}"
)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (SHIPPED, "never try again a stage that fails"),
        ("spec: {templateDefaults: {retryStrategy: {limit: 2, retryPolicy: Always}}}", "up to 27 times"),
        ("spec: {}", "never try again a pod that is deleted"),
        (WORKS, ""),
        (None, ""),
    ],
)
def test_the_clusters_settings_of_retries_are_told_where_they_can_be_read(
    settings: str | None,
    said: str,
    server: KubeflowServer,
    kubernetes: KubernetesServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = "/api/v1/namespaces/kubeflow/configmaps/workflow-controller-configmap"
    kubernetes.objects[path] = None if settings is None else {"workflowDefaults": settings}
    assert main(command(server, "--kube-context", "lab")) == 0
    err = capsys.readouterr().err
    assert said in err
    assert ("workflow-controller-configmap" in err) == bool(said)


@pytest.mark.parametrize(
    ("providers", "root", "said"),
    [
        ("minio: {default: {}}", "s3://cat/x", "configures no store for s3"),
        ("s3: {default: {}}", "s3://cat/x", ""),
        ("minio: {default: {}}", "minio://cat/x", ""),
        (None, "s3://cat/x", "which cannot be looked at from here"),
    ],
)
def test_a_root_is_compared_with_what_the_launcher_configures(
    providers: str | None,
    root: str,
    said: str,
    server: KubeflowServer,
    kubernetes: KubernetesServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = "/api/v1/namespaces/kubeflow/configmaps/kfp-launcher"
    kubernetes.objects[path] = None if providers is None else {"providers": providers}
    assert main(command(server, "--kube-context", "lab", "--root", root)) == 0
    err = capsys.readouterr().err
    assert said in err
    assert ("--root" in err) == bool(said)
