"""The command `translate`: every picture once, under its name, and one sentence for each that cannot be done."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from components.__main__ import main
from components.catlib import storage
from components.catlib.artifacts import writing
from components.catlib.config import ExportConfig, Pix2PixDistillConfig
from components.catlib.errors import UserError
from components.catlib.serving import tiling
from components.catlib.serving.model import open_model
from components.catlib.serving.translating import find_jobs, translate_files
from tests.components.catlib.serving.models import RGB, negative, science, write
from tests.object_stores import SeaweedServer

NO_TORCH = """
import runpy, sys
class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "kfp", "pydantic"):
            raise AssertionError(f"{name} is imported")
sys.meta_path.insert(0, Refusing())
sys.argv[0] = "components"
runpy.run_module("components", run_name="__main__", alter_sys=True)
"""


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Frames with numbers, one in a folder below, and a text that is no picture."""
    folder = tmp_path / "pictures"
    (folder / "deep").mkdir(parents=True)
    for name in ("frame10.png", "frame2.png", "frame1.jpg", "deep/frame1.png"):
        Image.new("RGB", (12, 9), (0, 100, 255)).save(folder / name)
    (folder / "notes.txt").write_text("nothing to translate")
    return folder


def run(model: Path | str, given: Path, output: Path, *more: str) -> int:
    return main(["translate", "--model", str(model), "--input", str(given), "--output", str(output), *more])


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_is_translated_in_the_order_of_its_numbers(
    pictures: Path, negative_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = ["deep/frame1.png", "frame1.jpg", "frame2.png", "frame10.png"]
    assert [job.name for job in find_jobs(pictures, tmp_path / "out")] == order
    assert run(negative_file, pictures, tmp_path / "out", "--json", "--threads", "1") == 0
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert facts == {"output": str(tmp_path / "out"), "translated": order, "enlarged": order, "errors": {}}
    assert (
        printed.err
        == "4 of 4 translated pictures were enlarged by reflection to the size step of the model, and cut back.\n"
    )
    assert names(tmp_path / "out") == sorted(order)
    with Image.open(tmp_path / "out/deep/frame1.png") as made:
        assert (made.size, made.getpixel((0, 0))) == ((12, 9), (255, 155, 0))


def test_names_stay_as_they_are_and_links_that_lead_nowhere_are_told(
    negative_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    odd = ["cafe\u0301.PNG", "caf\u00e9.png", os.fsdecode(b"latin\xe9.png"), "two\nlines.png"]
    for name in odd:
        Image.new("RGB", (8, 8)).save(tmp_path / "one.png")
        (tmp_path / "one.png").rename(folder / name)
    (folder / "link.png").symlink_to(tmp_path / "gone")
    assert run(negative_file, folder, tmp_path / "out") == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(odd)
    assert capsys.readouterr().err == "error: link.png: No such file or directory; repair or remove the file.\n"


def test_torch_and_settings_are_never_loaded(pictures: Path, negative_file: Path, tmp_path: Path) -> None:
    command = ["translate", "--model", negative_file, "--input", pictures / "frame2.png", "--output", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", NO_TORCH, *map(str, command)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out'}\n"), done.stderr
    assert names(tmp_path / "out") == ["frame2.png"]


def test_the_command_starts_in_half_a_second_of_computing(tmp_path: Path) -> None:
    """Time of the CPU, because others may use it, too; the best of three."""
    script = "import sys; from components.catlib.serving import translating, commands; import onnxruntime, time; " \
        "print(time.process_time())"  # fmt: skip
    seconds = [float(subprocess.check_output([sys.executable, "-c", script])) for _ in range(3)]
    assert min(seconds) <= 0.5


def test_what_cannot_be_translated_is_listed_and_the_others_are_done(
    pictures: Path, local_student: tuple[object, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "text.png").write_text("no picture")
    Image.new("RGB", (300, 8)).save(pictures / "flat.png")
    for name in names(pictures):
        if name.startswith(("frame", "deep")):
            Image.new("RGB", (17, 30)).save(pictures / name)
    assert run(local_student[1], pictures, tmp_path / "out", "--json") == 2
    printed = capsys.readouterr()
    facts = json.loads(printed.out)
    assert set(facts["errors"]) == {"flat.png", "text.png"}
    assert names(tmp_path / "out") == sorted(facts["translated"])
    assert len(facts["translated"]) == 4
    lines = printed.err.splitlines()
    assert lines[1:] == [
        "  flat.png: has 8x300 pixels (height x width), but this model needs at least 12 each way; enlarge it.",
        "  text.png: not an image of a known kind, or its beginning is damaged; repair or remove the file.",
        "error: 2 of 6 pictures were not translated; the list above says why and what to do.",
    ]


def test_one_picture_that_fails_is_one_sentence(
    negative_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (7, 9)).save(tmp_path / "tiny.png")
    assert run(negative_file, tmp_path / "tiny.png", tmp_path / "out") == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == (
        "error: tiny.png has 9x7 pixels (height x width), but this model needs at least 8 each way; enlarge it.\n"
    )
    assert names(tmp_path / "out") == []
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    assert run(negative_file, tmp_path / "objects.npy", tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        "error: objects.npy holds Python objects, which are never unpickled; save it with a type of numbers.\n"
    )


def test_one_enlarged_picture_is_named_in_the_singular(
    negative_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (13, 11)).save(tmp_path / "odd.png")
    assert run(negative_file, tmp_path / "odd.png", tmp_path / "out") == 0
    assert "1 of 1 translated pictures was enlarged" in capsys.readouterr().err


def test_inputs_are_never_replaced(
    pictures: Path, negative_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: (pictures / name).read_bytes() for name in names(pictures)}
    (tmp_path / "link").symlink_to(pictures)
    for given, output in (
        (pictures, pictures), (pictures / "frame2.png", pictures), (pictures, tmp_path / "link"),
        (pictures, pictures / "deep/.."),
    ):  # fmt: skip
        assert run(negative_file, given, output) == 2
        assert "choose another" in capsys.readouterr().err
    for _ in range(2):  # the second time, the translations lie below the pictures
        assert run(negative_file, pictures, pictures / "out") == 0
    assert names(pictures / "out") == ["deep/frame1.png", "frame1.jpg", "frame10.png", "frame2.png"]
    assert {name: (pictures / name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("given", "output", "sentence"),
    [
        ("nothing", "out", "There is no file or folder .*nothing"),
        ("empty", "out", "There is no picture in .*empty"),
        ("n" * 300, "out", "--input .* cannot be read .*File name too long"),
        ("pictures", "file", "--output .*file is a file; give a folder"),
        ("pictures", "file/below", "--output .*file/below"),
        ("pictures", "locked/out", "--output .*locked/out"),
    ],
)
def test_folders_that_cannot_be_used_are_refused(
    given: str, output: str, sentence: str, pictures: Path, negative_file: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "locked").mkdir(mode=0o500)
    if output.startswith("locked") and os.geteuid() == 0:
        (tmp_path / "locked").rmdir()
        (tmp_path / "locked").symlink_to("/proc/self")  # where not even root can make a folder
    assert run(negative_file, tmp_path / given, tmp_path / output) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("error: ")
    with pytest.raises(UserError, match=sentence):
        translate_files(str(negative_file), tmp_path / given, tmp_path / output)


def test_models_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    write(tmp_path / "foreign.onnx", np.zeros((3, 3), np.float32), {})
    negative(tmp_path / "channels.onnx", reads=RGB, makes=science("uint8", 1, 0, 255))
    write(tmp_path / "other.onnx", np.zeros((1, 2), np.float32), open_texts(tmp_path / "channels.onnx"))
    planes = {"num_labels": 3, "dont_care_plane": False}
    negative(tmp_path / "instances.onnx", planes=planes | {"instances": True})
    negative(tmp_path / "unknown.onnx", planes=planes, input_planes="absent")
    negative(tmp_path / "damaged.onnx", size_step="four")
    for name, sentence in {
        "nothing": "There is no file .*nothing",
        "text": "is no ONNX model that ONNX Runtime can load",
        "foreign": "comes from another program or from version 0.1.0; export the student again",
        "other": r"image is tensor\(float\) .* describes float32 \[N, 3, H, W\]",
        "instances": "also reads the edges of instances",
        "unknown": "does not state what its planes mean; export the student again with --dataset",
        "damaged": "has metadata that cannot be read",
    }.items():
        with pytest.raises(UserError, match=sentence):
            open_model(tmp_path / f"{name}.onnx")


def open_texts(path: Path) -> dict[str, str]:
    return open_model(path).session.get_modelmeta().custom_metadata_map


def test_artifacts_and_addresses_of_models(
    pictures: Path, negative_file: Path, object_store: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with writing(tmp_path / "export", kind="export", config=ExportConfig()) as writer:
        (writer.folder / "model.onnx").write_bytes(negative_file.read_bytes())
    with writing(tmp_path / "student", kind="distill", config=Pix2PixDistillConfig()) as writer:
        (writer.folder / "model.onnx").write_bytes(b"")

    store = storage.Storage(object_store.environment)
    for name in ("export", "student"):
        store.publish(tmp_path / name, f"s3://cat/serving/{name}")
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    for number, model in enumerate([tmp_path / "export", "s3://cat/serving/export/model.onnx"]):
        assert run(model, pictures / "frame2.png", tmp_path / f"out{number}") == 0
        assert names(tmp_path / f"out{number}") == ["frame2.png"]
    command = ["translate", "--model", "s3://cat/serving/export", "--input", pictures, "--output", tmp_path / "all"]
    script = NO_TORCH.replace(', "pydantic"', "")  # manifests need it
    done = subprocess.run([sys.executable, "-c", script, *map(str, command)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(names(tmp_path / "all")) == 4
    capsys.readouterr()
    for model, sentence in (
        (
            tmp_path / "student",
            "is a distill artifact, not an exported generator; export it first: python -m components",
        ),
        ("s3://cat/serving/student", "is a distill artifact, expected an export or publish artifact"),
        (pictures, "is a folder without a manifest.json, not an exported generator; give an .onnx file"),
        ("s3://cat/serving/nothing", "s3://cat/serving/nothing"),
        ("https://example.org/model.onnx", "A model has no https:// address"),
    ):
        assert run(model, pictures / "frame2.png", tmp_path / "none") == 2
        assert sentence in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_write_that_fails_leaves_the_earlier_file(
    pictures: Path, negative_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run(negative_file, pictures, tmp_path / "out") == 0
    before = {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")}
    real = Image.Image.save

    def breaking_off(self: Image.Image, path: Path, *given: object, **options: object) -> None:
        real(self, path, *given, **options)  # pyright: ignore[reportArgumentType]
        if "frame2" in path.name:
            path.write_bytes(path.read_bytes()[:20])
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Image.Image, "save", breaking_off)
    assert run(negative_file, pictures, tmp_path / "out") == 2
    assert "frame2.png" in capsys.readouterr().err
    assert {name: (tmp_path / "out" / name).read_bytes() for name in names(tmp_path / "out")} == before


def test_the_bar_is_for_terminals_alone(
    pictures: Path, negative_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert run(negative_file, pictures, tmp_path / "out") == 0
    assert "picture/s" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run(negative_file, pictures, tmp_path / "out") == 0
    assert "4/4" in capsys.readouterr().err
    monkeypatch.setattr(tiling, "plan", lambda *given, **held: ([tiling.Tile(0, 12, 0, 12)] * 2,) * 2)
    assert run(negative_file, pictures / "frame2.png", tmp_path / "out") == 0
    assert "4/4" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--threads", "0"], ["--threads", "many"], []])
def test_wrong_arguments_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["translate", "--model", "x.onnx", *words])
    assert end.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_help_explains_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["translate", "--help"])
    assert end.value.code == 0
    assert "cut back" in capsys.readouterr().out


def test_pictures_below_the_output_are_left_out_aloud(
    pictures: Path, negative_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(negative_file, pictures, pictures / "deep") == 0
    assert "1 picture lies below --output" in capsys.readouterr().err
    assert run(negative_file, pictures, pictures / "new") == 0
    assert "below --output" not in capsys.readouterr().err


def test_what_cannot_be_translated_leaves_no_folder_behind(tmp_path: Path, negative_file: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    assert run(negative_file, tmp_path / "bad.png", tmp_path / "new" / "out") == 2
    assert names(tmp_path) == ["bad.png", *names(tmp_path)[1:]]
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    assert run(negative_file, tmp_path / "bad.png", tmp_path / "there") == 2
    assert (tmp_path / "there").is_dir()


def test_pipes_and_devices_are_refused_by_every_command(
    tmp_path: Path, negative_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("pipe.png", "pipe.onnx", "pipe.yaml", "pipe.zip", "pipe.pth"):
        os.mkfifo(tmp_path / name)
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    given, out = ["--output", str(tmp_path / "out")], str(tmp_path / "pipe")
    for arguments in (
        ["translate", "--model", str(negative_file), "--input", f"{out}.png", *given],
        ["translate", "--model", f"{out}.onnx", "--input", str(tmp_path / "good.png"), *given],
        ["bench-model", f"{out}.onnx"],
        ["dataset", "--recipe", f"{out}.yaml", *given],
        ["dataset", "--source", f"{out}.zip", *given],
    ):
        assert main(arguments) == 2, arguments
        assert "is a named pipe, which is not read; give a plain file." in capsys.readouterr().err
    assert run(negative_file, Path("/dev/null"), tmp_path / "out") == 2
    assert "/dev/null is a device, which is not read" in capsys.readouterr().err
    with pytest.raises(UserError, match="is a named pipe"):
        storage.local_copy(f"{out}.pth")


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        (["translate", "--model", "", "--input", "a.png", "--output", "out"], "argument --model: is empty"),
        (["translate", "--model", "m.onnx", "--input", "", "--output", "out"], "argument --input: is empty"),
        (["translate", "--model", "m.onnx", "--input", "a.png", "--output", " "], "argument --output: is empty"),
        (["bench-model", ""], "argument FILE: is empty"),
        (["bench-model", "s3://cat/m.onnx"], "s3://cat/m.onnx is an address, and files of this machine are timed"),
        (["try-page", "--model", "", "--output", "x.html"], "argument --model: is empty"),
        (["try-page", "--model", "m.onnx", "--output", ""], "argument --output: is empty"),
        (
            ["publish", "--student", "", "--export", "e", "--output", "out"],
            "--student is empty; give a folder or s3://",
        ),
        (
            ["export", "--student", "s", "--dataset", "", "--output", "out"],
            "--dataset is empty; give a folder or s3://",
        ),
        (["export", "--student", "s", "--output", ""], "--output is empty; give a folder or s3://"),
    ],
)
def test_an_empty_address_is_not_this_folder(
    command: list[str],
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It comes from a shell variable that is not set."""
    monkeypatch.chdir(tmp_path)
    try:
        code = main(command)
    except SystemExit as end:  # argparse
        code = end.code
    assert code == 2
    assert complaint in capsys.readouterr().err.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_errors_of_onnx_runtime_are_one_short_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = onnx.load(negative(tmp_path / "whole.onnx"))
    whole.graph.node[0].op_type = "NoSuchOperation"
    (tmp_path / "unknown.onnx").write_bytes(whole.SerializeToString())
    whole = onnx.load(tmp_path / "whole.onnx")
    whole.opset_import[0].version = 999
    (tmp_path / "newer.onnx").write_bytes(whole.SerializeToString())
    (tmp_path / "text.onnx").write_text("text")
    for name in ("unknown.onnx", "newer.onnx", "text.onnx"):
        assert main(["bench-model", str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        print(said)
        assert said.count("\n") == 1
        assert "ONNXRuntimeError" not in said and ".cc:" not in said
        assert len(said.replace(str(tmp_path), "")) < 220
