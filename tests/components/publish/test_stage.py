"""What is published, on the artifacts of version 0.1.0 that are kept."""

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from components.__main__ import main
from components.catlib.artifacts import read_manifest, verify_checksums, writing
from components.catlib.config import PublishConfig
from components.catlib.errors import Unavailable, UserError
from components.catlib.publishing import versions
from components.catlib.publishing.card import _table
from components.catlib.recipes import load_recipe
from components.catlib.storage import open_store
from components.catlib.storage.folders import FolderStore
from components.publish.stage import Version, run
from pipelines.compiling import compile_pipeline

KEPT = Path(__file__).parents[2] / "kept" / "paired"
GIVEN: dict[str, Any] = {
    "students": [KEPT / "distill"],
    "exports": [KEPT / "export"],
    "evaluations": [KEPT / "evaluate"],
    "dataset": KEPT / "dataset",
    "teacher": KEPT / "teacher",
}


def published(folder: Path, **changes: Any) -> Path:
    (made,) = run(PublishConfig(licence="Apache-2.0"), output=folder / "small-model", **{**GIVEN, **changes})
    return Path(made.address)


def test_the_files_hold_the_card_the_weights_and_every_onnx_file_and_a_second_time_adds_nothing(tmp_path: Path) -> None:
    place = published(tmp_path)
    manifest = read_manifest(place, "publish")
    verify_checksums(place, manifest)
    assert place.name == versions.content_digest(manifest)[: versions.DIGITS]
    assert (place / "model.onnx").read_bytes() == (KEPT / "export/model.onnx").read_bytes()
    weights = "generator_source_to_target.safetensors"
    assert (place / weights).read_bytes() == (KEPT / "distill" / weights).read_bytes()
    card, text = json.loads((place / "model_card.json").read_text()), (place / "README.md").read_text()
    measured = json.loads((KEPT / "evaluate/metrics.json").read_text())["student"]
    scores = {each["key"]: each["student"] for each in card["metrics"]}
    assert scores["l1"] == {"value": measured["l1"], "interval": measured["confidence"]["l1"]}
    assert card["costs"]["paper_macs"] == measured["paper_macs"]
    assert set(card["recipe"]) == {"dataset", "teacher", "distill", "evaluate", "export"}
    for words in ("0.343", "0.326 to 0.359", "947 k", "ONNX Runtime", "Apache-2.0", "multiples of 4 pixels"):
        assert words in text, words
    (again,) = run(PublishConfig(licence="Apache-2.0"), output=tmp_path / "small-model", **GIVEN)
    assert isinstance(again, Version) and not again.added and again.address == str(place)


def test_a_version_with_other_content_is_refused_and_stays(tmp_path: Path) -> None:
    place = published(tmp_path, version="1.0")
    before = (place / "manifest.json").read_bytes()
    with pytest.raises(UserError, match=r"other content.*choose another version"):
        published(tmp_path, version="1.0", evaluations=[])
    assert (place / "manifest.json").read_bytes() == before
    assert not (place / versions.CLAIM).exists()


def test_an_interrupted_upload_shows_no_version_and_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, write = FolderStore.write, []

    def breaking(self: FolderStore, name: str, source: bytes | Path) -> None:
        write.append(name)
        if len(write) == 3:
            raise Unavailable("The store is away.")
        whole(self, name, source)

    monkeypatch.setattr(FolderStore, "write", breaking)
    with pytest.raises(Unavailable):
        published(tmp_path, version="1.0")
    place = tmp_path / "small-model" / "1.0"
    assert (place / versions.CLAIM).exists() and not (place / "manifest.json").exists()
    monkeypatch.undo()
    with pytest.raises(UserError, match="Other content is being written"):
        published(tmp_path, version="1.0", evaluations=[])
    verify_checksums(place, read_manifest(published(tmp_path, version="1.0")))
    assert not (place / versions.CLAIM).exists()


def test_what_is_no_version_is_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "small-model/1.0/notes.txt"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    with pytest.raises(UserError, match="something else"):
        published(tmp_path, version="1.0")
    assert [path.name for path in other.parent.iterdir()] == ["notes.txt"]


def _model_config() -> Any:
    """Returns the part of Triton's `ModelConfig` that files have, as a protobuf class."""
    file = FileDescriptorProto(name="model_config.proto", package="inference", syntax="proto3")
    kinds = file.enum_type.add(name="DataType")
    for number, name in ((0, "TYPE_INVALID"), (10, "TYPE_FP16"), (11, "TYPE_FP32")):
        kinds.value.add(name=name, number=number)
    field = FieldDescriptorProto
    end, model = file.message_type.add(name="End"), file.message_type.add(name="ModelConfig")
    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    end.field.add(name="name", number=1, type=field.TYPE_STRING, label=one)
    end.field.add(name="data_type", number=2, type=field.TYPE_ENUM, label=one, type_name=".inference.DataType")
    end.field.add(name="dims", number=3, type=field.TYPE_INT64, label=many)
    for number, name in ((1, "name"), (17, "backend"), (8, "default_model_filename")):
        model.field.add(name=name, number=number, type=field.TYPE_STRING, label=one)
    model.field.add(name="max_batch_size", number=4, type=field.TYPE_INT32, label=one)
    for number, name in ((5, "input"), (6, "output")):
        model.field.add(name=name, number=number, type=field.TYPE_MESSAGE, label=many, type_name=".inference.End")
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def test_triton_finds_a_model_with_the_names_types_and_dimensions_of_the_file(tmp_path: Path) -> None:
    place = published(tmp_path, layout="triton")
    config = text_format.Parse((place / "small-model/config.pbtxt").read_text(), _model_config()())
    assert (config.name, config.backend, config.max_batch_size) == ("small-model", "onnxruntime", 0)
    ends = [(end.name, end.data_type, list(end.dims)) for end in (*config.input, *config.output)]
    assert ends == [("image", 11, [-1, 3, -1, -1]), ("translated", 11, [-1, 3, -1, -1])]
    assert (place / "small-model/1" / config.default_model_filename).is_file()


def test_the_hub_reads_the_settings_before_the_card(tmp_path: Path) -> None:
    place = published(tmp_path, layout="huggingface")
    _, front, page = (place / "README.md").read_text().split("---\n", 2)
    settings = yaml.safe_load(front)
    assert settings["license"] == "apache-2.0"
    assert settings["pipeline_tag"] == "image-to-image"
    assert {each["type"] for each in settings["model-index"][0]["results"][0]["metrics"]} >= {"l1", "ssim"}
    assert page.strip().startswith("# small-model")
    assert json.loads((place / "config.json").read_text())["input_size"] == [32, 32]
    assert (place / "model.safetensors").is_file() and (place / "model.onnx").is_file()


def test_digests_lead_from_the_index_to_every_blob(tmp_path: Path) -> None:
    place = published(tmp_path, layout="oci", version="1.0")

    def follow(descriptor: dict[str, Any]) -> bytes:
        content = (place / "blobs/sha256" / descriptor["digest"].removeprefix("sha256:")).read_bytes()
        assert hashlib.sha256(content).hexdigest() == descriptor["digest"].removeprefix("sha256:")
        assert len(content) == descriptor["size"]
        return content

    assert json.loads((place / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    (entry,) = json.loads((place / "index.json").read_text())["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "1.0"}
    manifest = json.loads(follow(entry))
    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    config = json.loads(follow(manifest["config"]))
    files = {layer["annotations"]["org.cncf.model.filepath"]: follow(layer) for layer in manifest["layers"]}
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]
    assert files["model.onnx"] == (KEPT / "export/model.onnx").read_bytes()
    assert len(list((place / "blobs/sha256").iterdir())) == len(files) + 2


def test_a_student_alone_needs_its_export_and_nothing_else(tmp_path: Path) -> None:
    alone: dict[str, Any] = {"evaluations": [], "dataset": None, "teacher": None}
    with pytest.raises(UserError, match=r"No export artifact was made from .*distill; also give the output of export"):
        published(tmp_path, exports=[], **alone)
    assert not list(tmp_path.rglob("*"))
    assert published(tmp_path / "a", **alone).name == published(tmp_path / "b", **alone).name


def test_the_teacher_that_an_export_holds_for_comparison_is_not_published(tmp_path: Path) -> None:
    export = tmp_path / "export"
    shutil.copytree(KEPT / "export", export)
    (export / "teacher.onnx").write_bytes(b"teacher")
    manifest = json.loads((export / "manifest.json").read_text())
    manifest["files"]["teacher.onnx"] = {"bytes": 7, "sha256": hashlib.sha256(b"teacher").hexdigest()}
    (export / "manifest.json").write_text(json.dumps(manifest))
    assert not list(published(tmp_path, exports=[export]).glob("teacher*"))


@pytest.mark.parametrize("name", ["..", "a/b", "a\nlicense: mit", "-x", 'a"b', "ä", "a" * 97])
def test_hostile_names_are_refused(name: str, tmp_path: Path) -> None:
    for changes in ({"version": name}, {"name": name}):
        with pytest.raises(ValueError, match="pattern"):
            PublishConfig(to="s3://models/x", **changes)
    with pytest.raises(UserError):
        published(tmp_path, version=name)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_name_a_model_takes_a_name_of_its_own() -> None:
    with pytest.raises(ValueError, match=r"set publish\.name, of letters, digits, dots, hyphens and underscores"):
        PublishConfig(to="s3://models/my model")
    assert PublishConfig(to="s3://models/my model", name="my-model").model_name == "my-model"


def test_the_command_answers_and_refuses_with_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["publish", "--student", str(KEPT / "distill"), "--export", str(KEPT / "export")]
    assert main([*given, "--output", str(tmp_path / "m"), "--version", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["versions"] == [str(tmp_path / "m" / "1")]
    assert main([*given, "--output", str(tmp_path / "m"), "--layout", "zip"]) == 2
    assert main([*given, "--output", str(tmp_path / "m"), "--evaluation", str(KEPT / "dataset")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 2


def test_a_version_lies_in_an_object_store(object_store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable, value in object_store.environment.items():
        monkeypatch.setenv(variable, value)
    (made,) = run(PublishConfig(), output="s3://cat/models/small", version="1.0", **GIVEN)
    assert made.address == "s3://cat/models/small/1.0"
    assert versions.CLAIM not in {entry.name for entry in open_store(made.address).entries()}
    with pytest.raises(UserError, match="other content"):
        run(PublishConfig(), output="s3://cat/models/small", version="1.0", **{**GIVEN, "evaluations": []})


def test_of_many_who_write_one_version_at_once_exactly_one_wins(
    object_store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable, value in object_store.environment.items():
        monkeypatch.setenv(variable, value)
    for i in range(4):
        with writing(tmp_path / f"made{i}", kind="publish", config=PublishConfig()) as writer:
            for name in ("a", "b", "c"):
                (writer.folder / name).write_text(f"{name} of {i}")
    for place in (str(tmp_path / "models/race"), "s3://cat/models/race"):
        with ThreadPoolExecutor() as pool:
            begun = [
                pool.submit(versions.add_version, tmp_path / f"made{i}", open_store(f"{place}/1")) for i in range(4)
            ]
        failures = [each.exception() for each in begun]
        (winner,) = (i for i, failure in enumerate(failures) if failure is None)
        assert all(isinstance(each, UserError) for i, each in enumerate(failures) if i != winner), failures
        store = open_store(f"{place}/1")
        assert {entry.name for entry in store.entries()} == {"manifest.json", "a", "b", "c"}, "and nothing else is left"
        assert [store.read(name).decode() for name in ("a", "b", "c")] == [
            f"{name} of {winner}" for name in ("a", "b", "c")
        ]


def test_a_store_that_goes_away_ends_the_command_with_75_and_the_same_command_completes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["publish", "--student", str(KEPT / "distill"), "--export", str(KEPT / "export"), "--output"]
    command += [str(tmp_path / "small"), "--version", "1"]
    with monkeypatch.context() as patch:
        patch.setattr(FolderStore, "write", lambda *_: (_ for _ in ()).throw(Unavailable("The store went away.")))
        assert main(command) == 75
    assert capsys.readouterr().err.strip().splitlines()[-1] == "error: The store went away."
    assert not (tmp_path / "small/1/manifest.json").exists()
    assert main(command) == 0
    verify_checksums(tmp_path / "small/1", read_manifest(tmp_path / "small/1", "publish"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("photos\n---\nlicense: mit", "photos --- license: mit"),
        ("a | b](javascript:x) <script>", r"a \| b\](javascript:x) &lt;script&gt;"),
        ("# _very_ ~~good~~ `x`", r"\# \_very\_ \~\~good\~\~ \`x\`"),
    ],
)
def test_texts_of_data_sets_are_shown_as_they_are(text: str, shown: str) -> None:
    assert _table(["", ""], {"source": text}.items()).splitlines()[-1] == f"| source | {shown} |"


def test_a_pipeline_publishes_last_and_only_on_request() -> None:
    plain = compile_pipeline("compress", load_recipe("smoke"), image="cat-pipeline:golden").spec
    asked = load_recipe("smoke", ["publish.to=s3://models/small"])
    tasks = compile_pipeline("compress", asked, image="cat-pipeline:golden").spec["root"]["dag"]["tasks"]
    assert set(tasks) - set(plain["root"]["dag"]["tasks"]) == {"publish-students"}
    assert "write-report" in tasks["publish-students"]["dependentTasks"]
