"""The table of the bench: every case is a line."""

from __future__ import annotations

from functools import partial

from tests.benchmarks import others
from tests.benchmarks.forms import Case, Forms
from tests.benchmarks.steps import step_forms

_EAGER = "one branch after the other, one loss, one backward pass, Adam over a list of weights"


def _grown(family: str, stage: str, device: str, scale: str, axis: str, factor: float) -> Forms:
    return step_forms(family, stage, device, scale, axis=axis, factor=factor, variants=False)


def _step(what: str, family: str, stage: str, plain: str = _EAGER) -> Case:
    return Case(
        what=what,
        plain=plain,
        make=partial(step_forms, family, stage),
        grows=partial(_grown, family, stage),
        heavy=True,
    )


def _rewritten(device: str, scale: str, *, norm: str) -> Forms:
    from tests.benchmarks.rewrites import rewrite_forms  # needs onnx, which the other cases do without

    return rewrite_forms(device, scale, norm=norm)


_LEARNS = "the whole teacher, then as for a teacher"

CASES: dict[str, Case] = {
    "teacher-pix2pix": _step("a step of a pix2pix teacher", "pix2pix", "teacher"),
    "teacher-cyclegan": _step("a step of a CycleGAN teacher", "cyclegan", "teacher"),
    "teacher-spade": _step("a step of a GauGAN teacher", "spade", "teacher"),
    "distill-pix2pix": _step("a step of distillation, pairs", "pix2pix", "distill", _LEARNS),
    "distill-cyclegan": _step("a step of distillation, no pairs", "cyclegan", "distill", _LEARNS),
    "distill-spade": _step("a step of distillation, label maps", "spade", "distill", _LEARNS),
    "validation": Case(
        what="scores of a generator on held-out pairs",
        plain="image by image, scipy's matrix root",
        make=others.validation_forms,
        heavy=True,
    ),
    "loader-images": Case(
        what="a batch of pairs on the device",
        plain="JPEG files decoded by Pillow",
        make=partial(others.loader_forms, labels=False),
    ),
    "loader-labels": Case(
        what="a batch of label maps and images on the device",
        plain="PNG files decoded by Pillow, torch's one_hot",
        make=partial(others.loader_forms, labels=True),
    ),
    "features": Case(what="features of real images", plain="image by image", make=others.features_forms),
    "frechet": Case(
        what="a Fréchet distance", plain="scipy's matrix root of the product of covariances", make=others.frechet_forms
    ),
    "packing": Case(
        what="pictures to packed arrays, with checks and digests",
        plain="Pillow and numpy.save, one picture after the other",
        make=others.packing_forms,
        heavy=True,
    ),
    "export-instance": Case(
        what="an exported student with instance norm, one thread",
        plain="the graph without rewrites",
        make=partial(_rewritten, norm="instance"),
    ),
    "export-batch": Case(
        what="an exported student with batch norm, one thread",
        plain="the graph without rewrites",
        make=partial(_rewritten, norm="batch"),
    ),
} | {
    f"start-{stage}": Case(
        what=f"the start of the stage {stage}",
        plain="Python that imports torch (prune: numpy and pydantic)",
        make=lambda _device, _scale, stage=stage: others.start_forms(stage),
        heavy=True,
    )
    for stage in others.STARTED
}
"""Name -> case, in the order in which they run."""
