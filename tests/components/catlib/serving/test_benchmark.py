"""`bench-model` times any ONNX file beside others, with the threads and the size that were asked for."""

import json
from pathlib import Path

import numpy as np
import pytest

from components.__main__ import main
from components.catlib.errors import UserError
from components.catlib.serving import benchmark
from components.catlib.serving.benchmark import time_files
from tests.components.catlib.serving.models import write


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "REPEATS", 5)


def bench(*words: str | Path) -> int:
    return main(["bench-model", *map(str, words)])


def test_files_are_timed_beside_each_other(
    negative_file: Path, whole_student: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(negative_file, whole_student, "--threads", "1", "--json", "--size", "64x96") == 0
    printed = capsys.readouterr()
    assert printed.out.count("\n") == 1
    models = json.loads(printed.out)["models"]
    assert [model["file"] for model in models] == [str(negative_file), str(whole_student)]
    for model in models:
        assert model["inputs"] == {"image": [1, 3, 64, 96]}
        assert 0 < model["milliseconds"]["median"] <= model["milliseconds"]["p95"]
        assert (model["threads"], model["rounds"]) == (1, 5)
        assert model["file_bytes"] == Path(model["file"]).stat().st_size
    simple, student = (model["milliseconds"]["median"] for model in models)
    assert simple < student
    assert models[0]["memory_bytes"] is None or models[1]["memory_bytes"] > 64 * 96 * 4


def test_the_table_names_the_size_that_a_file_was_made_for(
    negative_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "foreign.onnx", np.zeros((3, 2), np.float32), {})
    assert bench(negative_file, tmp_path / "foreign.onnx", "--threads", "1") == 0
    heading, first, second, machine = capsys.readouterr().out.splitlines()
    assert heading.split() == ["file", "input", "median", "ms", "p95", "ms", "memory", "MB", "file", "MB"]
    assert first.split()[:2] == [str(negative_file), "1x3x16x24"]
    assert second.split()[:2] == [str(tmp_path / "foreign.onnx"), "1x2x256x256"]
    assert ", 1 thread, ONNX Runtime " in machine


def test_wrong_files_and_sizes_end_with_one_sentence(
    negative_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    assert bench(negative_file, tmp_path / "text.onnx") == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert "is no ONNX model" in printed.err
    assert bench(tmp_path / "nothing.onnx") == 2
    assert "There is no file" in capsys.readouterr().err
    assert bench(tmp_path) == 2
    assert f"{tmp_path} is a folder; give the file in it, such as {tmp_path}/model.onnx" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        bench(negative_file, "--size", "big")
    assert end.value.code == 2
    assert "is no height and width in pixels" in capsys.readouterr().err


def test_an_input_that_does_not_fit_is_named(tmp_path: Path) -> None:
    write(tmp_path / "m.onnx", np.zeros((1, 3), np.float32), {"input_size": "0x0"})
    with pytest.raises(UserError, match=r"m.onnx cannot run on image \[1, 3, 0, 0\]|give another --size"):
        time_files([tmp_path / "m.onnx"], threads=1)
