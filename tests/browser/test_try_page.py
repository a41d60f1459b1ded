"""The page that runs a student in the browser, as its users meet it: files, the camera, the slider, mistakes."""

import base64
import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from components.catlib.errors import Unavailable
from components.catlib.networks.generator import Generator
from components.catlib.serving.translating import translate_files
from components.catlib.try_page import page
from components.catlib.try_page.runtime import load_runtime
from tests.browser.chromium import SWITCHES, Tab, chromium_tab, find_chromium
from tests.browser.test_report_page import FAINT_TEXT
from tests.components.catlib.exporting.small_generators import RUNNING, inception
from tests.components.catlib.serving.models import exported, negative

HOSTILE = "</script></title><img src=x onerror='window.broken=1'><script>window.broken = 1</script>"
MOST_PIXELS = 80_000
SLOW_SIZE = (140, 136)
STEP = 4
LEVELS = 2  # of 255, by which the page may differ
KNOWN_WARNINGS = (
    "No available adapters",  # of WebGPU
    "willReadFrequently",  # `pixels` below reads canvases that the page only shows
)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> tuple[Generator, Path]:
    """A small student with a hostile description."""
    torch.manual_seed(3)
    generator = inception(RUNNING)
    with torch.no_grad():
        for module in generator.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                module.weight *= 4  # else all pixels are nearly the same grey
    path = exported(generator, tmp_path_factory.mktemp("student") / "model.onnx")
    model = onnx.load(path)
    model.metadata_props.add(key="dataset", value=HOSTILE)
    burden(model)
    onnx.save(model, path)
    return generator, path


def burden(model: onnx.ModelProto) -> None:
    """Makes a model take 60 kB for every pixel beyond `MOST_PIXELS`, and many seconds for `SLOW_SIZE`."""
    graph, output = model.graph, model.graph.output[0].name
    numbers = {
        "from": [2], "to": [4], "none": [0], "each": [60_000], "most": [MOST_PIXELS], "slow": [math.prod(SLOW_SIZE)],
        "side": [8000],
    }  # fmt: skip
    for name, value in numbers.items():
        graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, np.int64), name))
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.float32), "zero"))
    for each in graph.node:
        each.output[:] = ["freely" if name == output else name for name in each.output]
    node, tensor = onnx.helper.make_node, onnx.helper.make_tensor
    graph.node.extend(
        [
            node("Shape", [graph.input[0].name], ["shape"]),
            node("Slice", ["shape", "from", "to"], ["sides"]),
            node("ReduceProd", ["sides"], ["pixels"], keepdims=1),
            node("Sub", ["pixels", "most"], ["excess"]),
            node("Max", ["excess", "none"], ["beyond"]),
            node("Mul", ["beyond", "each"], ["bytes"]),
            node("ConstantOfShape", ["bytes"], ["taken"], value=tensor("byte", onnx.TensorProto.INT8, [1], [0])),
            node("Size", ["taken"], ["much"]),
            node("Equal", ["pixels", "slow"], ["is_slow"]),
            node("Cast", ["is_slow"], ["times"], to=onnx.TensorProto.INT64),
            node("Mul", ["side", "times"], ["rows"]),
            node("Concat", ["rows", "rows"], ["square"], axis=0),
            node("ConstantOfShape", ["square"], ["ones"], value=tensor("one", onnx.TensorProto.FLOAT, [1], [1.0])),
            node("MatMul", ["ones", "ones"], ["product"]),
            node("Size", ["product"], ["long"]),
            node("Sum", ["much_real", "long_real"], ["number"]),
            node("Mul", ["number", "zero"], ["nothing"]),
            node("Add", ["freely", "nothing"], [output]),
        ]
    )
    for name in ("much", "long"):
        place = next(i for i, each in enumerate(graph.node) if name in each.output) + 1
        graph.node.insert(place, node("Cast", [name], [f"{name}_real"], to=onnx.TensorProto.FLOAT))


@pytest.fixture(scope="module")
def runtime() -> None:
    """Skips what needs the page's runtime where it cannot be fetched."""
    if shutil.which("npm") is None:
        pytest.skip("there is no npm here, which fetches the page's runtime")
    try:
        load_runtime()
    except Unavailable as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def file(student: tuple[Generator, Path], runtime: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("page") / "try.html"
    page.write_page(str(student[1]), output)
    return output


class TryPage:
    """The opened page."""

    def __init__(self, tab: Tab, file: Path) -> None:
        self.tab = tab
        tab.open(file.as_uri(), width=1000)
        self.wait("status.textContent === 'Ready.' || !error.hidden")
        assert self.text("error") == ""

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Waits until a condition on the page holds; names are elements with that id."""
        end = time.monotonic() + seconds
        while not self.tab.evaluate(f"(({{status, error}}) => {condition})({ELEMENTS})"):
            assert time.monotonic() < end, (condition, self.text("status"), self.text("error"))
            time.sleep(0.02)

    def text(self, name: str) -> str:
        return self.tab.evaluate(f"(e => e.hidden ? '' : e.textContent)(document.getElementById('{name}'))")

    def offer(self, *files: Path) -> None:
        """Chooses files as with the button."""
        self.tab.evaluate("document.getElementById('status').textContent = ''")
        found = self.tab.call("Runtime.evaluate", expression="document.getElementById('file')")["result"]
        self.tab.call("DOM.setFileInputFiles", files=[str(each) for each in files], objectId=found["objectId"])

    def choose(self, *files: Path) -> None:
        """Chooses files as with the button, and waits until the page is done with them."""
        self.offer(*files)
        self.wait("status.textContent.includes(' ms on ') || !error.hidden")

    def click(self, name: str) -> None:
        """Presses the mouse on an element."""
        x, y = self.tab.evaluate(
            f"(box => [box.x + box.width / 2, box.y + box.height / 2])"
            f"(document.getElementById('{name}').getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def pixels(self, canvas: str) -> NDArray[np.int64]:
        """Returns a canvas as [H, W, RGBA]."""
        numbers = self.tab.evaluate(
            f"(c => [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])"
            f"(document.getElementById('{canvas}'))"
        )
        return np.array(numbers[2:]).reshape(*numbers[:2], 4)

    def save(self, folder: Path) -> Image.Image:
        """Presses the button that saves the picture, and returns what was saved."""
        self.tab.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
        self.tab.evaluate("document.getElementById('save').click()")
        end = time.monotonic() + 10
        while not (saved := list(folder.glob("*.png"))):
            assert time.monotonic() < end
            time.sleep(0.02)
        return Image.open(saved[0])


ELEMENTS = "{status: document.getElementById('status'), error: document.getElementById('error')}"


@pytest.fixture(scope="module")
def opened(tab: Tab, file: Path) -> Iterator[TryPage]:
    yield TryPage(tab, file)
    foreign = [address for address in tab.requests if not address.startswith(("data:", "blob:"))]
    assert foreign == [file.as_uri()], "nothing was asked from anywhere in all these tests"
    assert [problem for problem in tab.problems if not any(known in problem for known in KNOWN_WARNINGS)] == []


def picture(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    """Returns noise on a gradient."""
    numbers = np.random.default_rng(height * width).integers(0, 100, (height, width, channels))
    return (numbers + np.linspace(0, 155, width)[None, :, None]).astype(np.uint8)


def by_command(student: Path, source: Path, folder: Path) -> Image.Image:
    outcome = translate_files(str(student), source, folder / "translated", threads=1)
    assert outcome.errors == {}
    return Image.open(folder / "translated" / source.name)


def test_an_odd_size_is_translated_as_by_pytorch_and_by_the_command(
    opened: TryPage, student: tuple[Generator, Path], tmp_path: Path
) -> None:
    colours = picture(31, 47)
    Image.fromarray(colours).save(tmp_path / "odd.png")
    opened.choose(tmp_path / "odd.png")
    made = opened.pixels("student")
    assert made.shape == (31, 47, 4)
    assert made[..., :3].std() > 10
    assert (opened.pixels("input")[..., :3] == colours).all()
    command = np.asarray(by_command(student[1], tmp_path / "odd.png", tmp_path), int)
    assert np.abs(made[..., :3] - command).max() <= LEVELS
    padded = np.pad(colours, [(0, 1), (0, 1), (0, 0)], mode="reflect").transpose(2, 0, 1)[None]
    with torch.no_grad():
        output = student[0](torch.from_numpy(padded.astype(np.float32) / 127.5 - 1))[0, :, :31, :47]
    assert np.abs(made[..., :3] - (output.numpy().transpose(1, 2, 0) + 1) * 127.5).max() <= LEVELS + 0.5
    assert "odd.png: 31x47 pixels (height x width), " in opened.text("status")
    milliseconds = float(opened.text("status").split(", ")[1].split(" ms")[0])
    assert 0 < milliseconds < 20_000


def test_alpha_is_kept_in_the_saved_picture(opened: TryPage, student: tuple[Generator, Path], tmp_path: Path) -> None:
    colours = picture(20, 34, 4)
    colours[..., 3] = np.linspace(0, 255, 20)[:, None]
    Image.fromarray(colours).save(tmp_path / "glass.png")
    opened.choose(tmp_path / "glass.png")
    (tmp_path / "saved").mkdir()
    saved = opened.save(tmp_path / "saved")
    command = by_command(student[1], tmp_path / "glass.png", tmp_path)
    assert (Path(saved.filename).name, saved.mode, saved.size) == ("glass.png", "RGBA", (34, 20))  # pyright: ignore
    assert (np.asarray(saved)[..., 3] == colours[..., 3]).all()
    assert np.abs(np.asarray(saved, int) - np.asarray(command, int)).max() <= 2 * LEVELS, "white shines through rounded"


def test_a_photo_is_turned_upright(opened: TryPage, student: tuple[Generator, Path], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.fromarray(picture(24, 40)).save(tmp_path / "photo.jpg", exif=exif, quality=95, subsampling=0)
    opened.choose(tmp_path / "photo.jpg")
    made = opened.pixels("student")[..., :3]
    assert made.shape == (40, 24, 3)
    command = np.asarray(by_command(student[1], tmp_path / "photo.jpg", tmp_path), int)
    assert np.abs(made - command).mean() < 6, "JPEG loses a little"


def test_a_large_picture_is_scaled_down_with_a_word(opened: TryPage, tmp_path: Path) -> None:
    Image.fromarray(picture(400, 800)).save(tmp_path / "large.png")
    opened.choose(tmp_path / "large.png")
    assert opened.text("remarks") == (
        "large.png has 400x800 pixels (height x width), too many for the student in this browser; it was scaled down "
        "to 200x400."
    )
    assert opened.pixels("student").shape == (200, 400, 4)


def test_the_page_answers_while_a_picture_takes_long(opened: TryPage, tmp_path: Path) -> None:
    Image.fromarray(picture(*SLOW_SIZE)).save(tmp_path / "slow.png")
    Image.fromarray(picture(20, 24)).save(tmp_path / "quick.png")
    opened.offer(tmp_path / "slow.png")
    opened.wait("status.textContent === 'Translating slow.png … 1 s'")
    began = time.monotonic()
    opened.click("stop")
    opened.wait("status.textContent === 'Stopped.'")
    assert time.monotonic() - began < 2
    assert opened.text("progress") == "", "and nothing is shown as being done"
    opened.offer(tmp_path / "slow.png")
    opened.wait("status.textContent.startsWith('Translating slow.png … ')")
    opened.choose(tmp_path / "quick.png")  # takes its place
    assert opened.pixels("student").shape == (20, 24, 4)


def test_sixteen_bits_are_read_as_eight_with_a_word(opened: TryPage, tmp_path: Path) -> None:
    Image.fromarray(picture(16, 16, 1)[..., 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    opened.choose(tmp_path / "deep.png")
    assert opened.text("remarks") == "deep.png has 16 bits per channel, of which this page uses 8."
    opened.choose(tmp_path / "deep.png")
    Image.fromarray(picture(16, 16)).save(tmp_path / "flat.png")
    opened.choose(tmp_path / "flat.png")
    assert opened.text("remarks") == ""


def test_the_slider_parts_input_and_student(opened: TryPage, tmp_path: Path) -> None:
    Image.fromarray(picture(32, 64)).save(tmp_path / "some.png")
    opened.choose(tmp_path / "some.png")
    opened.tab.evaluate("document.getElementById('split').focus()")
    cut = "getComputedStyle(document.getElementById('student')).clipPath"
    before = opened.tab.evaluate(cut)
    for _ in range(20):
        opened.tab.call("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", windowsVirtualKeyCode=39)
    assert (before, opened.tab.evaluate(cut)) == ("inset(0px 0px 0px 50%)", "inset(0px 0px 0px 60%)")
    bounds = "['input', 'student'].map(i => JSON.stringify(document.getElementById(i).getBoundingClientRect()))"
    assert len(set(opened.tab.evaluate(bounds))) == 1, "they lie on each other"


def test_measuring_shows_the_median(opened: TryPage, tmp_path: Path) -> None:
    Image.fromarray(picture(16, 16)).save(tmp_path / "small.png")
    opened.choose(tmp_path / "small.png")
    opened.tab.evaluate("document.getElementById('measure').click()")
    opened.wait("document.getElementById('measured').textContent.startsWith('median ')")
    median, p95 = (float(part.split()[-2]) for part in opened.text("measured").split(","))
    assert 0 < median <= p95


def test_mistakes_are_told_in_one_sentence(opened: TryPage, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no picture")
    Image.fromarray(picture(6, 40)).save(tmp_path / "<b>flat.png")
    for names, message in {
        (
            "notes.png",
        ): "notes.png cannot be read as a picture: it is damaged, too large, or of a type that browsers do "
        "not read; choose a PNG, JPEG or WebP file.",
        ("<b>flat.png",): "<b>flat.png has 6x40 pixels (height x width), but this model needs at least 12 each way; "
        "enlarge it.",
    }.items():
        opened.choose(*(tmp_path / name for name in names))
        assert opened.text("error") == message
        assert opened.text("result") == "", "no older picture stays under the message"


def test_a_picture_that_is_too_large_and_too_narrow_is_refused(opened: TryPage, tmp_path: Path) -> None:
    Image.fromarray(picture(12, 20000)).save(tmp_path / "ribbon.png")
    opened.choose(tmp_path / "ribbon.png")
    beginning, _, rest = opened.text("error").partition(" (height x width), ")
    reason = rest.removeprefix("too many for the student in this browser (").partition("), and cannot be scaled")[0]
    assert beginning == "ribbon.png has 12x20000 pixels"
    assert reason == "Tensor shape is too large"
    assert rest.endswith("), and cannot be scaled down far enough; cut it into smaller pictures.")


def dropped(files: list[dict[str, str]]) -> str:
    """Returns a script that drops files, or nothing, on the page."""
    return f"""(() => {{
      const held = new DataTransfer();
      for (const {{name, content}} of {json.dumps(files)}) {{
        held.items.add(new File([Uint8Array.from(atob(content), c => c.charCodeAt(0))], name));
      }}
      document.getElementById("drop").dispatchEvent(
        new DragEvent("drop", {{bubbles: true, cancelable: true, dataTransfer: held}}));
    }})()"""


def test_a_picture_can_be_dropped(opened: TryPage, tmp_path: Path) -> None:
    Image.fromarray(picture(17, 22)).save(tmp_path / "x.png")
    one = {"name": "dropped.png", "content": base64.b64encode((tmp_path / "x.png").read_bytes()).decode()}
    opened.tab.evaluate(dropped([one]))
    opened.wait("status.textContent.startsWith('dropped.png: 17x22')")
    for files, message in (([], "What was dropped is no file"), ([one, one], "2 files were given; give one")):
        opened.tab.evaluate(dropped(files))
        opened.wait(f"error.textContent.startsWith({message!r}) && !error.hidden")


def permit(tab: Tab, setting: str) -> None:
    tab.call("Browser.setPermission", permission={"name": "camera"}, setting=setting)


def test_the_camera_is_translated_until_it_is_stopped(opened: TryPage, tmp_path: Path) -> None:
    permit(opened.tab, "granted")
    opened.tab.evaluate("document.getElementById('camera').click()")
    opened.wait("status.textContent.startsWith('camera: 240x320 pixels')")
    assert opened.text("remarks").endswith("and are scaled down to 240x320.")
    first = opened.tab.evaluate("document.getElementById('input').toDataURL()")
    opened.wait(f"document.getElementById('input').toDataURL() !== {json.dumps(first)}")  # the fake one's picture moves
    assert opened.text("camera") == "Stop the camera"
    Image.fromarray(picture(16, 20)).save(tmp_path / "after.png")
    opened.choose(tmp_path / "after.png")
    opened.wait("status.textContent.startsWith('after.png: 16x20')")
    assert opened.text("camera") == "Camera", "a chosen picture stops it"


def test_a_camera_that_is_refused_is_told(opened: TryPage) -> None:
    permit(opened.tab, "denied")
    opened.tab.evaluate("document.getElementById('camera').click()")
    opened.wait("!error.hidden")
    assert opened.text("error") == "The browser refused the camera; allow it for this page and press Camera again."
    assert opened.text("camera") == "Camera"


def test_what_a_model_states_is_text_on_the_page(opened: TryPage) -> None:
    assert opened.text("about") == "About"
    assert opened.tab.evaluate("document.querySelector('h1').textContent") == HOSTILE
    assert opened.tab.evaluate("window.broken === undefined && document.images.length === 0")


def test_the_licences_are_in_the_page(opened: TryPage) -> None:
    opened.tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
    opened.wait("document.getElementById('notices-text').textContent.length > 100000")
    texts = opened.tab.evaluate("[...document.querySelectorAll('details')].map(d => d.textContent)")
    assert "MIT License" in texts[0]
    assert "Copyright (c) Microsoft Corporation" in texts[0]
    assert all(name in texts[1] for name in ("protocolbuffers/protobuf", "Eigen", "NumPy License"))
    opened.tab.evaluate("document.querySelectorAll('details').forEach(d => { d.open = false })")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_page_can_be_read_on_a_phone(opened: TryPage, dark: bool, tmp_path: Path) -> None:
    Image.fromarray(picture(20, 60)).save(tmp_path / "some.png")
    opened.choose(tmp_path / "some.png")
    looks: dict[str, Any] = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    opened.tab.call("Emulation.setDeviceMetricsOverride", **looks)
    features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    opened.tab.call("Emulation.setEmulatedMedia", features=features)
    assert opened.tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    _, faint = opened.tab.evaluate(FAINT_TEXT)
    assert [text for text, _ in faint if text not in ("input", "student")] == [], "those lie on pictures"


SPOILT_WRITES = """
const spoil = `
  const write = globalThis.GPUQueue?.prototype.writeBuffer;
  if (write) GPUQueue.prototype.writeBuffer = function (buffer, offset, data, ...rest) {
    return write.call(this, buffer, offset, new Uint8Array(data.byteLength), ...rest);
  };`;
window.Blob = class extends Blob {
  constructor(parts, options) {
    super(window.spoilt && options?.type === "text/javascript" ? [spoil, ...parts] : parts, options);
  }
};
"""
"""Spoils what workers that are made while `window.spoilt` holds send to the graphics card."""


def test_webgpu_is_used_only_if_it_computes_what_the_cpu_does(runtime: None, tmp_path: Path) -> None:
    """On a graphics card in software; no real one is tested."""
    executable = find_chromium()
    if executable is None:
        pytest.skip("there is no Chromium here")
    page.write_page(str(negative(tmp_path / "model.onnx")), tmp_path / "try.html")
    colours = picture(30, 41)
    Image.fromarray(colours).save(tmp_path / "some.png")
    switches = (*SWITCHES, "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")
    with chromium_tab(executable, tmp_path / "profile", switches=switches) as tab:
        tab.call("Page.addScriptToEvaluateOnNewDocument", source=SPOILT_WRITES)
        opened = TryPage(tab, tmp_path / "try.html")
        if tab.evaluate("document.querySelector('[value=gpu]').disabled"):
            pytest.skip("this Chromium has no graphics card in software")
        choose = "document.getElementById('device').dispatchEvent(new Event('change'))"
        tab.evaluate(f"window.spoilt = true; document.getElementById('device').value = 'gpu'; {choose}")
        opened.wait("!error.hidden")
        assert "differs from the CPU by" in opened.text("error")
        assert tab.evaluate("document.getElementById('device').value") == "cpu"
        tab.evaluate(f"window.spoilt = false; document.getElementById('device').value = 'gpu'; {choose}")
        opened.wait("error.hidden && status.textContent === 'Ready.'")
        opened.choose(tmp_path / "some.png")
        assert opened.text("status").endswith("on GPU (WebGPU, untested)")
        assert np.abs(opened.pixels("student")[..., :3] - (255 - colours.astype(int))).max() <= LEVELS
