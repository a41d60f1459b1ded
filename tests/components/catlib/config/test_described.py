"""Settings as `--help` lists them."""

from components.catlib.config import Recipe
from components.catlib.config.described import described

TEACHER = list(described(Recipe.model_fields["teacher"], "teacher"))
DISTILL = dict(described(Recipe.model_fields["distill"], "distill"))


def test_what_all_families_share_is_listed_once() -> None:
    settings = [setting for setting, _ in TEACHER]
    assert settings.count("teacher.epochs=500") == 1
    assert len(set(TEACHER)) == len(TEACHER)


def test_what_some_kinds_have_is_listed_with_them() -> None:
    teacher = dict(TEACHER)
    assert teacher["teacher.image_pool_size=50"].startswith("cyclegan: ")
    assert teacher["teacher.adversarial.gradient_penalty=10.0"].startswith("wgangp: ")
    assert DISTILL["distill.distiller.centred=false"].startswith("kernel_alignment: ")
    assert DISTILL["distill.distiller.weight=1.0"].startswith(
        "kernel_alignment and mse and discriminator_cooperated and omgd: "
    )
    assert DISTILL['distill.init="xavier"'].startswith("spade: ")


def test_kinds_are_listed_with_their_default() -> None:
    assert dict(TEACHER)['teacher.schedule.kind="linear"'].endswith(
        "(linear or cosine or one_cycle or step or plateau)"
    )
    assert DISTILL['distill.distiller.kind="kernel_alignment"'].endswith(
        "(kernel_alignment or mse or discriminator_cooperated or omgd or wavelet or content_relations or none)"
    )
    assert "cyclegan: unpaired images" in dict(TEACHER)['teacher.family="pix2pix"']


def test_optional_sections_and_needed_settings() -> None:
    assert "teacher.published=null" in dict(TEACHER)
    assert "teacher.published.generator.uri (no default)" in dict(TEACHER)
