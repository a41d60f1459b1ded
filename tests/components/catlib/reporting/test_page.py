import itertools
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.catlib.config import InceptionSpadeConfig, NormConfig, Pix2PixDistillConfig, ReportConfig
from components.catlib.reporting.comparison import compare_generators
from components.catlib.reporting.formatting import quantity
from components.catlib.reporting.lineage import trace
from components.catlib.reporting.page import LARGEST_PAGE, render
from tests.components.report.small_run import SmallRun, rewrite, write_small_run

VOID = {"meta", "link", "img", "br"}
HOSTILE = "<script>alert(1)</script>\"'&"


class Page(HTMLParser):
    """A parsed page.

    Attributes:
        elements: Tag and attributes of every element.
        text: All text outside of styles.
        unclosed: Tags that are open at the end, or were closed out of order.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.unclosed: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        self.unclosed += self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()
        else:
            self.unclosed.append(tag)

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def page_of(inputs: dict[str, Any], **config: str) -> Page:
    lineage = trace(**inputs)
    return Page(render(ReportConfig(**config), lineage, compare_generators(lineage)))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return write_small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def html(run: SmallRun) -> str:
    lineage = trace(**run.inputs())
    return render(ReportConfig(name="tiles", description="From A to B."), lineage, compare_generators(lineage))


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_is_well_formed(page: Page) -> None:
    assert page.unclosed == []
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert [name for name, count in ids.items() if count > 1] == []


def test_the_page_needs_nothing_from_elsewhere(html: str, page: Page) -> None:
    addresses = [
        value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")
    ]
    assert addresses
    links = [address for address in addresses if not (address or "").startswith(("data:", "#"))]
    assert links == ["try.html"], "nothing is fetched; one link leads to a page beside this one"
    assert not page.all("script")
    assert not re.search(r"https?://(?!www\.w3\.org)|@import|url\((?!#)", html)
    assert len(html.encode()) <= LARGEST_PAGE


def test_the_page_can_be_read_without_seeing_it(page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert page.all("meta")[1]["name"] == "viewport"
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels)), "no level is skipped"
    assert all(image["alt"] for image in page.all("img"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert all(heading.get("scope") in ("row", "col") for heading in page.all("th"))


def test_the_headline(page: Page, run: SmallRun) -> None:
    comparison = compare_generators(trace(**run.inputs()))
    assert comparison.teacher is not None
    ratio = comparison.teacher.macs / comparison.smallest.macs
    assert f"{ratio:.1f}× fewer multiply-accumulates" in page.words
    assert "tiles From A to B." in page.words
    assert "per 16×24 image; the smallest of 2 students" in page.words
    assert "L1 0.260 ± 0.010 teacher 0.200 ± 0.010 lower is better" in page.words
    assert "Time per image (CPU) 10.0 ms teacher 40.0 ms ÷ 4.0, measured in turn" in page.words


def glance_of(page: Page) -> str:
    """Returns what stands between the first heading and the pictures, where all generators are listed."""
    return page.words.partition("in figures")[0].partition("GeneratorMACs")[2]


def test_several_students_are_shown_in_one_glance(page: Page, run: SmallRun) -> None:
    macs = {each.name: quantity(each.macs) for each in compare_generators(trace(**run.inputs())).contenders}
    assert glance_of(page).startswith(
        " Time per image (ONNX Runtime, CPU) Fréchet distance (random features) ↓lower is better "
        f"Teacher {macs['Teacher']} – 30.00 "  # no export timed the teacher's file
        f"Student 0.5× {macs['Student 0.5×']} 4.00 ms 30.00 "
        f"Student 0.2× {macs['Student 0.2×']} 4.00 ms 31.00 "
    )


def test_one_student_needs_no_glance(run: SmallRun) -> None:
    alone = {name: found[:1] if isinstance(found, list) else found for name, found in run.inputs().items()}
    page = page_of(alone, name="tiles")
    assert not glance_of(page)
    assert re.search(r"Teacher [\d.]+ M MACs Student [\d.]+ M MACs", page.words)


def test_without_exports_the_glance_shows_times_in_pytorch(run: SmallRun) -> None:
    glance = glance_of(page_of(run.inputs() | {"exports": []}, name="tiles"))
    assert glance.startswith(" Time per image (CPU) ")
    assert re.search(r"Teacher [\d.]+ M 40\.0 ms 30\.00 Student 0\.5× [\d.]+ M 10\.0 ms 30\.00 ", glance)


def test_every_section_is_there(page: Page) -> None:
    for text in (
        "Held-out images", "alps", "All generators", "Input unchanged", "Best single colour", "What pruning kept",
        "conv 3×3", "depthwise 5×5", "down 3, feature width", "Scores on held-out images", "Losses of the teacher",
        "Losses of distillation", "Misalignment of features", "features.0", "Teacher, while it learned", "step 40",
        "image, float32 [batch, 3, 4*height, 4*width]", "2.5e−6 on held-out images", "builtin:relief-to-satellite",
        "How Teacher, Student 0.5× were measured", "How Student 0.2× was measured", "Artifacts",
    ):  # fmt: skip
        assert text in page.words, text


def test_the_random_distance_is_not_called_fid(page: Page) -> None:
    assert "Fréchet distance (random features)" in page.words
    assert "not FID and cannot be compared with published numbers" in page.words
    table = page.words[page.words.index("All generators") : page.words.index("What pruning kept")]
    assert " FID ↓" not in table


def test_the_recipe_can_be_read_back(html: str) -> None:
    text = re.search(r"<summary>Recipe</summary><pre[^>]*>(.*?)</pre>", html, re.DOTALL)
    assert text is not None
    recipe = yaml.safe_load(text[1].replace("&#39;", "'"))
    assert recipe["name"] == "tiles"
    assert recipe["budgets"] == ["0.5x", "0.2x"]
    assert recipe["teacher"]["generator"]["base_channels"] == 64
    assert list(recipe)[3:] == ["dataset", "real_stats", "teacher", "prune", "distill", "evaluate", "export"]


def test_origins_name_every_artifact_and_its_ancestors(html: str, run: SmallRun) -> None:
    for artifact in trace(**run.inputs()).artifacts():
        assert f'<code title="{artifact.digest}">{artifact.digest[:12]}</code>' in html
        for digest in artifact.manifest.inputs.values():
            assert f'<code title="{digest}">' in html


def test_an_evaluation_alone_makes_a_page(run: SmallRun) -> None:
    page = page_of({"evaluations": run.evaluations[:1]}, name="alone")
    assert page.unclosed == []
    assert "fewer multiply-accumulates" in page.words
    for text in ("What pruning kept", "Training", "ONNX", "while it learned", "Images paired"):
        assert text not in page.words, text


def test_without_a_teacher_nothing_is_compared_with_it(tmp_path: Path) -> None:
    run = write_small_run(tmp_path, budgets=("0.5x",))
    rewrite(run.evaluations[0], "metrics.json", lambda metrics: metrics.update(teacher=None, ratio={}))
    page = page_of({"evaluations": run.evaluations}, name="alone")
    assert "fewer" not in page.words
    assert "Student: " in page.words


def test_withheld_numbers_are_withheld_visibly(tmp_path: Path) -> None:
    run = write_small_run(tmp_path, budgets=("0.5x", "0.3x", "0.2x"))
    rewrite(run.evaluations[2], "metrics.json", lambda metrics: metrics["protocol"].update(real_images="others"))
    rewrite(
        run.evaluations[2], "metrics.json", lambda metrics: metrics["student"].update(frechet_random_features=77.77)
    )
    page = page_of({"evaluations": run.evaluations})
    assert "withheld" in [value for cell in page.all("td") if (value := cell.get("class"))]
    assert (
        "The Fréchet distance (random features) of Student (3) is withheld because it was measured differently"
        in page.words
    )
    assert "77.77" not in page.words


def test_a_generator_worse_than_a_single_colour_is_named(tmp_path: Path) -> None:
    run = write_small_run(tmp_path)
    for evaluation in run.evaluations:
        rewrite(evaluation, "metrics.json", lambda metrics: metrics["baseline"].update(constant_l1=0.22))
    page = page_of(run.inputs())
    assert "By L1, Student 0.5× and Student 0.2× did not beat a picture of the best single colour (0.220)." in (
        page.words
    )


def test_text_from_outside_is_shown_not_run(tmp_path: Path) -> None:
    run = write_small_run(tmp_path, budgets=("0.5x",))

    def be_hostile(metrics: dict[str, Any]) -> None:
        metrics["samples"][0]["name"] = HOSTILE
        metrics["protocol"]["real_images"] = HOSTILE
        metrics["baseline"]["unchanged_input"][HOSTILE] = 1.0

    rewrite(run.evaluations[0], "metrics.json", be_hostile)
    page = page_of({"evaluations": run.evaluations}, name=HOSTILE, description=HOSTILE)
    assert not page.all("script")
    assert page.words.count(HOSTILE) >= 4
    assert page.all("img")[0]["alt"] == f"input of sample {HOSTILE}"


def test_students_of_one_architecture_share_what_pruning_kept(tmp_path: Path) -> None:
    seeds = (Pix2PixDistillConfig(seed=0), Pix2PixDistillConfig(seed=1))
    page = page_of(write_small_run(tmp_path, budgets=("0.5x", "0.5x"), distillations=seeds).inputs())
    assert page.words.count("threshold on |γ|") == 1
    assert "Student 0.5×, seed 0 against its teacher, per 16×24 image; one of 2 equally small students." in page.words
    assert page.words.index("Student 0.5×, seed 0") < page.words.index("Student 0.5×, seed 1")


def test_a_spade_student_shows_the_branches_of_its_norms(tmp_path: Path) -> None:
    norm = NormConfig(kind="batch", track_running_stats=True)
    generator = InceptionSpadeConfig(
        base_channels=2, channels_reduction_factor=2, spade_hidden_channels=8,
        num_upsampling_layers="normal", norm=norm,
    )  # fmt: skip
    page = page_of(write_small_run(tmp_path, budgets=("0.9x",), generator=generator).inputs())
    for text in ("SPADE conv 3×3", "SPADE depthwise 1×1", "head_0", "up_3", "first layer"):
        assert text in page.words, text
