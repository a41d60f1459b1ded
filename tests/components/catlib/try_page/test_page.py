"""Which models a page serves, and what of them is on it; tests/browser/ opens pages."""

import json
from pathlib import Path
from typing import Any

import pytest

from components.__main__ import main
from components.catlib.try_page import page
from components.catlib.try_page.runtime import Runtime
from tests.components.catlib.serving.models import RGB, negative, science


@pytest.fixture(autouse=True)
def _small_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "load_runtime", lambda: Runtime({"cpu-script": "parts"}, "its <licence>", "notices"))


def make(model: Path, output: Path) -> int:
    return main(["try-page", "--model", str(model), "--output", str(output), "--json"])


def test_the_page_holds_model_and_runtime_and_states_its_limits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = negative(tmp_path / "model.onnx"), tmp_path / "new" / "try.html"
    assert make(model, output) == 0
    text = output.read_text(encoding="utf-8")
    assert json.loads(capsys.readouterr().out) == {"output": str(output), "bytes": output.stat().st_size}
    assert page.packed(model.read_bytes()) in text
    assert "its &lt;licence&gt;" in text
    settings = json.loads(text.split('id="settings">')[1].split("</script>")[0])
    assert settings == {
        "input": "image", "output": "translated", "size_step": 4, "smallest_size": 8,
    }  # fmt: skip
    assert make(model, output) == 0, "a page that exists is replaced"
    assert output.read_text(encoding="utf-8") == text, "the same model gives the same page"


def test_no_text_of_the_model_is_markup(tmp_path: Path) -> None:
    hostile = "</title><script>alert(1)</script>"
    assert make(negative(tmp_path / "model.onnx", dataset=hostile, name=hostile * 9), tmp_path / "try.html") == 0
    text = (tmp_path / "try.html").read_text(encoding="utf-8")
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert hostile.count("<") * 9 > text.count("&lt;/script"), "and long texts are cut"


SCIENCE = science("uint16", 4, 0, 4095)
PLANES = {"num_labels": 5, "dont_care_plane": True, "instances": False}


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ({"reads": SCIENCE}, "reads 4 channels of uint16, 0 to 4095, but a browser's pictures are 8-bit colours"),
        ({"makes": science("uint16", 3, 0, 65535)}, "makes 3 channels of uint16, 0 to 65535, but a browser's"),
        ({"makes": science("uint8", 1, 0, 255)}, "makes 1 channel of uint8, 0 to 255, but a browser's"),
        ({"reads": science("float32", 3, -1, 1)}, "reads 3 channels of float32, -1 to 1, but a browser's"),
        ({"planes": PLANES}, "paints label maps, which are no pictures that a browser reads"),
        ({"planes": PLANES | {"instances": True}}, "also reads the edges of instances"),
        ({"fixed_size": [32, 64]}, "takes pictures of 32x64 pixels alone"),
        ({"size_step": "absent"}, "does not state which pictures it takes"),
    ],
)
def test_a_model_that_a_browser_cannot_serve_is_refused(
    kind: dict[str, Any], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = negative(tmp_path / "model.onnx", **({"reads": RGB} | kind))
    assert make(model, tmp_path / "try.html") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {model} {complaint}")
    assert not (tmp_path / "try.html").exists()


def test_a_model_that_is_too_large_for_a_page_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(page, "LARGEST_MODEL", 100)
    assert make(negative(tmp_path / "model.onnx"), tmp_path / "try.html") == 2
    assert "and a page carries" in capsys.readouterr().err


def test_what_cannot_be_read_or_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = negative(tmp_path / "model.onnx")
    (tmp_path / "notes.onnx").write_text("no model")
    (tmp_path / "report.html").write_text("another page")
    for given, output, complaint in [
        (model, model, f"--output {model} exists and is no page of a student; choose another file or remove it."),
        (model, tmp_path / "report.html", f"--output {tmp_path / 'report.html'} exists and is no page of a student"),
        (model, tmp_path, f"--output {tmp_path} is a folder"),
        (model, model / "try.html", "--output"),
        (tmp_path / "missing.onnx", tmp_path / "try.html", "There is no file"),
        (tmp_path / "notes.onnx", tmp_path / "try.html", f"{tmp_path / 'notes.onnx'} is no ONNX model"),
    ]:
        assert make(given, output) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {complaint}")
    assert (tmp_path / "report.html").read_text() == "another page"
    assert page.open_model(model), "which is whole"
