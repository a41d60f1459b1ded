"""Origin of the results: images, protocols, exported files, the recipe, and the chain of artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.catlib.config import RGB, ReportConfig, ValuesConfig
from components.catlib.data.channels import described, shown_as
from components.catlib.reporting.comparison import Comparison, Contender, folder_names
from components.catlib.reporting.formatting import as_text, as_yaml, file_size, milliseconds, short_number, words
from components.catlib.reporting.lineage import Artifact, Lineage
from components.catlib.reporting.runtimes import RuntimeTable, runtime_table
from components.catlib.reporting.summary import figures

PAIRINGS = {"paired": "paired images", "unpaired": "unpaired images", "labels": "label maps"}
RECIPE_SECTIONS = ("dataset", "real_stats", "teacher", "prune", "distill", "evaluate", "export")


def dataset_facts(lineage: Lineage) -> list[tuple[str, str]]:
    """Returns name and value of facts about the images; empty without a dataset."""
    if lineage.dataset is None:
        return []
    manifest = lineage.dataset.manifest
    summary = manifest.summary
    images, crop, load = summary["images"], summary["crop_size"], summary["load_size"]
    counts = {split: max(images[split].values()) for split in ("train", "test")}
    facts = [
        ("images", f"{PAIRINGS[summary['pairing']]}, {counts['train']} for training, {counts['test']} held out"),
        ("size", f"{crop[0]}×{crop[1]} pixels (height × width), cut from {load[0]}×{load[1]}"),
        ("direction", summary["direction"]),
        *value_facts(summary),
    ]
    facts += [(words(name), as_text(value)) for name, value in summary["provenance"].items()]
    if summary["skipped"]:
        facts.append(("left out", f"{len(summary['skipped'])} files that could not be read"))
    return facts


def value_facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns what pictures are that are no 8-bit colours, and how a page shows them.

    Args:
        summary: Of a dataset's manifest.
    """
    known = {role: ValuesConfig.model_validate(each) for role, each in summary.get("values", {}).items()}
    return [
        (f"{role} values", f"{described(each)}, which networks see as −1 to 1; pictures show {shown_as(each)}")
        for role, each in known.items()
        if each != RGB
    ]


@dataclass(frozen=True)
class ExportedFile:
    """A student's ONNX file, the facts about it, and the table of its precisions in runtimes, if there is one."""

    student: Contender
    facts: list[tuple[str, str]]
    runtimes: RuntimeTable | None


def exported_files(comparison: Comparison) -> list[ExportedFile]:
    """Returns the ONNX files that were given."""
    exports = [
        (student, student.exported.read_json("export.json")) for student in comparison.students if student.exported
    ]
    return [
        ExportedFile(student, _export_facts(facts), runtime_table(facts.get("runtimes"))) for student, facts in exports
    ]


def tried_in_browser(comparison: Comparison) -> str | None:
    """Returns the folder, beside the page, of the smallest student that `try-page` takes; None if there is none."""
    folders = folder_names([student.pruned for student in comparison.students])
    takes = [
        (student.macs, folder)
        for student, folder in zip(comparison.students, folders, strict=True)
        if student.exported is not None and _translates_colours(student.exported.read_json("export.json"))
    ]
    return min(takes)[1] if takes else None


def _translates_colours(facts: Mapping[str, Any]) -> bool:
    """Tells whether the file reads and makes 8-bit colours, as browsers do; files of version 0.1.0 do not state it."""
    values = (facts.get(end) for end in ("input_values", "output_values"))
    return all(each is not None and ValuesConfig.model_validate(each) == RGB for each in values)


def _export_facts(facts: dict[str, Any]) -> list[tuple[str, str]]:
    parity, runtime, torch = facts["parity"], facts["latency"]["onnxruntime"], facts["latency"]["torch"]
    return [
        ("file", f"{facts['file']}, {file_size(facts['bytes'])}, opset {facts['opset']}"),
        *((end, _tensor(facts[end]) + _values(facts.get(f"{end}_values"))) for end in ("input", "output")),
        *_sizes(facts.get("sizes")),
        (
            "largest difference to PyTorch",
            f"{short_number(parity['largest_difference'])} on {parity['compared_on']}, images in [−1, 1]; "
            f"{short_number(parity['tolerance'])} is allowed",
        ),
        (
            "time per image (CPU)",
            f"{milliseconds(1e3 * runtime['median'])} in ONNX Runtime, {milliseconds(1e3 * torch['median'])} in "
            f"PyTorch; threads: {runtime['threads']}",
        ),
        *_rewrites(facts.get("rewrites")),
        ("operators", ", ".join(f"{count} {name}" for name, count in facts["operators"].items())),
    ]


def _rewrites(rewrites: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Returns the line about rewrites; files of version 0.2.0 have none."""
    if rewrites is None:
        return []
    if not rewrites["used"]:
        return [("rewrites", "none")]
    names = ", ".join(rewrites["used"]).replace("_", " ")
    return [("rewrites", f"{names}; together {rewrites['times_faster']:.2f} times faster with one thread")]


def _values(values: Mapping[str, Any] | None) -> str:
    return f"; −1 to 1 are {described(ValuesConfig.model_validate(values))}" if values else ""


def _sizes(sizes: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Returns a row about the sizes of pictures; none for a file of version 0.1.0, which does not state them."""
    if sizes is None:
        return []
    if sizes["fixed_size"] is not None:
        height, width = sizes["fixed_size"]
        return [("pictures", f"{height}×{width} pixels alone; {sizes['normalisation']}")]
    radius = sizes["receptive_radius"]
    reach = "all pixels" if radius is None else f"those at most {radius} pixels away"
    text = f"multiples of {sizes['size_step']} pixels, at least {sizes['smallest_size']}; {sizes['normalisation']}"
    return [("pictures", f"{text}: a pixel depends on {reach}")]


def _tensor(value: Mapping[str, Any]) -> str:
    return f"{value['name']}, float32 [{', '.join(map(str, value['shape']))}]"


def protocols(comparison: Comparison) -> list[tuple[str, str]]:
    """Returns the names of generators that were measured alike, and their protocol as YAML."""
    groups: dict[str, list[str]] = {}
    for contender in comparison.contenders:
        groups.setdefault(as_yaml(contender.protocol), []).append(contender.name)
    return [(", ".join(names), text) for text, names in groups.items()]


@dataclass(frozen=True)
class RecipeText:
    """The recipe as YAML; `remark` is not empty if parts of the run were made with other settings."""

    text: str
    remark: str


def recipe(config: ReportConfig, lineage: Lineage, comparison: Comparison) -> RecipeText:
    """Reassembles the recipe from the settings in the artifacts' manifests."""
    content: dict[str, Any] = {"name": config.name, "description": config.description}
    budgets = dict.fromkeys(student.budget for student in comparison.students if student.budget)
    if budgets:
        content["budgets"] = list(budgets)
    deviating = []
    for kind in RECIPE_SECTIONS:
        settings = [artifact.manifest.config for artifact in lineage.artifacts() if artifact.manifest.kind == kind]
        if settings:
            content[kind] = _without_nulls(settings[0])
        if any(other != settings[0] for other in settings):
            deviating.append(words(kind))
    remark = (
        f"The students differ in the settings of {', '.join(deviating)}; those of one student are shown."
        if deviating
        else ""
    )
    return RecipeText(as_yaml(content), remark)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(nested) for key, nested in value.items() if nested is not None}
    return value


@dataclass(frozen=True)
class Origin:
    """An artifact: a row of the last table.

    Attributes:
        kind: The stage that wrote it.
        student: The students that it belongs to, when there are several.
        digest: Digest of the whole artifact.
        code_digest: Digest of the code that wrote it.
        inputs: Name and digest of the artifacts that it was made from.
        size: Size of all files.
        num_files: Number of its files.
        metrics: Its headline figures; empty for an evaluation, whose figures are elsewhere on the page.
    """

    kind: str
    student: str
    digest: str
    code_digest: str
    inputs: list[tuple[str, str]]
    size: str
    num_files: int
    metrics: str


def origins(lineage: Lineage, comparison: Comparison) -> list[Origin]:
    """Returns all artifacts, ancestors first."""
    return [_origin(artifact, comparison) for artifact in lineage.artifacts()]


def _origin(artifact: Artifact, comparison: Comparison) -> Origin:
    manifest = artifact.manifest
    owners = [student.name for student in comparison.students if artifact in student.artifacts]
    shown = figures(manifest) if manifest.kind != "evaluate" else []
    return Origin(
        kind=words(manifest.kind),
        student=", ".join(owners) if len(comparison.students) > 1 else "",
        digest=artifact.digest,
        code_digest=manifest.code_digest,
        inputs=sorted(manifest.inputs.items()),
        size=file_size(sum(record.bytes for record in manifest.files.values())),
        num_files=len(manifest.files),
        metrics=", ".join(f"{name} {value}" for name, value in shown),
    )
