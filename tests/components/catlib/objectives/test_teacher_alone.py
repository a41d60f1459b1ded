"""Students that learn from their teacher alone, offline and online."""

from typing import Any

import pytest
import torch

from components.catlib.errors import UserError
from components.catlib.objectives.teacher_alone import TeacherAlone
from tests.components.catlib.objectives.test_distillation import FAMILIES, build
from tests.components.catlib.objectives.tiny import batch, distill_config, weights_of

ALONE: dict[str, dict[str, Any]] = {
    "pix2pix": {"adversarial": 0, "reconstruction": 0},
    "cyclegan": {"adversarial": 0, "reconstruction": 0},
    "spade": {"adversarial": 0, "feature_matching": 0},
}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("family", FAMILIES)
def test_offline_only_the_student_learns(family: str) -> None:
    objective = build(family, distiller="omgd", **ALONE[family])
    assert isinstance(objective, TeacherAlone)
    networks = objective.networks | {"teacher": objective.teachers["source_to_target"]}
    before = weights_of(networks)
    losses = objective.step(batch(family))
    assert changed(before, weights_of(networks)) == {"generator_source_to_target", "adaptors"}
    assert losses["generator"].item() == losses["distillation"].item()
    assert not any(name.startswith(("discriminator", "teacher", "adversarial")) for name in losses)


@pytest.mark.parametrize("family", ["pix2pix", "spade"])
def test_online_the_teacher_learns_as_it_did_in_its_own_training(family: str) -> None:
    from tests.components.catlib.objectives.test_teachers import build as build_teacher

    objective = build(family, distiller={"kind": "omgd", "online": True})
    alone = build_teacher(family)
    before = weights_of(objective.networks)
    losses, own = objective.step(batch(family)), alone.step(batch(family))
    assert changed(before, weights_of(objective.networks)) == set(objective.networks)
    assert losses["generator"].item() == losses["distillation"].item()
    # The same losses as in the teacher's own training, under names that keep them apart from the student's.
    for name, loss in own.items():
        assert losses[name if name.startswith("discriminator") else f"teacher_{name}"].item() == loss.item(), name
    assert list(objective.optimizers) == ["generator", "discriminator", "teacher"]


def test_equal_starts_give_bitwise_equal_weights() -> None:
    ends = []
    for _ in range(2):
        objective = build("pix2pix", distiller={"kind": "omgd", "online": True})
        for step in range(2):
            objective.step(batch("pix2pix", seed=step))
        ends.append(weights_of(objective.networks))
    assert not changed(*ends)


def test_parts_of_a_batch_give_the_losses_of_the_whole() -> None:
    whole, parts = (
        build("pix2pix", distiller="omgd", images_per_pass=images, **ALONE["pix2pix"]).step(batch("pix2pix", size=4))
        for images in (None, 2)
    )
    assert parts["generator"].item() == pytest.approx(whole["generator"].item(), rel=1e-5)


@pytest.mark.parametrize(
    ("family", "settings", "complaint"),
    [
        ("pix2pix", {}, r"would not count; set adversarial: 0, reconstruction: 0, or distiller\.online: true"),
        ("spade", {"adversarial": 0}, r"set feature_matching: 0, or distiller\.online: true"),
        ("pix2pix", {"distiller": {"kind": "omgd", "weight": 0}}, "all that its student learns from"),
        (
            "cyclegan",
            {"distiller": {"kind": "omgd", "online": True}, "adversarial": 0, "reconstruction": 0},
            "needs the generator of the other direction.*; set distiller.online: false",
        ),
    ],
)
def test_what_the_regime_cannot_use_is_refused(family: str, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        distill_config(family, **{"distiller": "omgd", **settings})
    if "set distiller.online: false" in complaint:
        distill_config(family, **settings | {"distiller": {"kind": "omgd", "online": False}})
