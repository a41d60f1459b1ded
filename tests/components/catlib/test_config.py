"""Recipes: what is accepted, and what a mistake is answered with."""

from pathlib import Path

import pytest

from components.catlib.config import Recipe, TeacherConfig, parse_budget, validate
from components.catlib.errors import UserError
from components.catlib.recipes import RECIPE_FOLDER, load_recipe, recipe_names


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2.6e9", (2.6e9, False)), (2.6e9, (2.6e9, False)), ("0.05x", (0.05, True)), (" 1X ", (1.0, True))],
)
def test_budgets_are_macs_or_shares(text: str | float, expected: tuple[float, bool]) -> None:
    assert parse_budget(text) == expected


@pytest.mark.parametrize(
    ("given", "kept"),
    [("2.6e9", "2.6e+09"), ("4131072", "4131072"), ("4131072.5", "4131072.5"), (" .05X", "0.05x")],
)
def test_budgets_are_kept_as_they_were_given(given: str, kept: str) -> None:
    assert load_recipe("smoke", budgets=[given]).budgets == (kept,)


@pytest.mark.parametrize("text", ["", "x", "many", "-1", "0", "nan", "inf", "2.6e9 MACs"])
def test_a_budget_that_is_no_number_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match=r"is not a compute budget: give MACs such as 2\.6e9") as refused:
        parse_budget(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid_and_survives_kubeflows_json(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    for section in ("dataset", "real_stats", "teacher", "prune", "distill", "evaluate", "export", "report"):
        config = getattr(recipe, section)
        delivered = _integers_to_floats(recipe.section(section))
        assert type(config).model_validate(delivered) == config


def _integers_to_floats(value: object) -> object:
    if isinstance(value, dict):
        return {key: _integers_to_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integers_to_floats(item) for item in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("teacher.epoch=2", "unknown key 'teacher.epoch'; did you mean 'epochs'"),
        ("teachr.epochs=2", "unknown key 'teachr'; did you mean 'teacher'"),
        ("teacher.generator.norm.kindd=batch", "unknown key 'teacher.generator.norm.kindd'; did you mean 'kind'"),
        ("prune.student_norm.kindd=batch", "did you mean 'kind'"),
        ("teacher.epochs=-1", "teacher.epochs: .*greater than or equal to 0 .*found -1"),
        ("teacher.epochs=1.5", "teacher.epochs: .*found 1.5"),
        ("teacher.generator.kernel_sizes=[2]", "kernel_sizes must be odd"),
        ("dataset.load_size=8", "load_size .* must be at least crop_size"),
        ("distill.batch_size=1", "kernel alignment of a single image is always 1"),
        ("real_stats.features=inception", "needs weights.uri, the file pt_inception"),
        ("teacher.reconstruction=vgg", "vgg_weights.uri"),
        ("teacher.family=spade", "belong together"),
        ("teacher.lambda_vgg=5", "lambda_vgg has no effect in a teacher of family pix2pix; leave it out"),
        ("teacher.image_pool_size=20", "image_pool_size has no effect in a teacher of family pix2pix"),
        (
            "teacher.published={generator_backward: {uri: a.pth}}",
            "generator_backward has no effect .* only in cyclegan",
        ),
        (
            "teacher.generator.spectral=true",
            "unknown key 'teacher.generator.spectral': inception has no such setting, only inception_spade; leave it",
        ),
        ("teacher.generator.norn={}", "unknown key 'teacher.generator.norn'; did you mean 'norm'"),
        ("teacher.generator.family=resnet", "teacher.generator.family: .*'inception' or 'inception_spade' .*'resnet'"),
        ("teacher.generator=3", "teacher.generator: .*found 3"),
        ("teacher.discriminator.num_scales=3", "patch has no such setting, only multiscale; leave it out"),
        ("teacher.discriminator={family: pixel, num_layers: 3}", "pixel has no .*, only patch and multiscale; leave"),
        ("teacher.discriminator={family: multiscale, norm: {}}", "multiscale has no .*, only patch and pixel; leave"),
        ("teacher={compile: true, gan_objective: wgangp}", "compile: true cannot train with gan_objective: wgangp"),
        ("teacher={epochs: 0, decay_epochs: 0, published: {discriminator: {uri: d}}}", "both 0.*published.generator"),
        ("teacher.epochs", "is not of the form SECTION.KEY=VALUE"),
        ("budgets=[]", "budgets: .*at least 1"),
    ],
)
def test_a_wrong_setting_is_answered_with_one_sentence(override: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as refused:
        load_recipe("smoke", [override])
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("recipe", "setting"),
    [
        ("horse2zebra", "teacher.lambda_recon=5"),
        ("horse2zebra", "teacher.reconstruction=l2"),
        ("demo-labels", "teacher.lambda_recon=5"),
        ("demo-labels", "teacher.lambda_identity=1"),
        ("demo-labels", "teacher.generator.num_blocks=6"),
        ("demo-labels", "teacher.generator.padding=zero"),
    ],
)
def test_settings_without_effect_are_refused(recipe: str, setting: str) -> None:
    with pytest.raises(UserError, match=r"has no effect|has no such setting, only inception; leave it out"):
        load_recipe(recipe, [setting])


def test_what_is_off_anyway_may_be_said() -> None:
    load_recipe("demo-labels", ["teacher.lambda_recon=0", "teacher.lambda_cycle=0", "teacher.image_pool_size=0"])
    load_recipe("smoke", ["teacher.lambda_vgg=0", "teacher.lambda_feature=0"])


def test_an_override_reaches_nested_settings_and_reads_exponents() -> None:
    recipe = load_recipe("smoke", ["teacher.generator.norm.kind=batch", "teacher.learning_rate=1e-3"], ["1e8", "0.5x"])
    assert recipe.teacher.generator.norm.kind == "batch"
    assert recipe.teacher.learning_rate == 1e-3
    assert recipe.budgets == ("1e+08", "0.5x")


def test_an_unknown_recipe_names_the_nearest_one() -> None:
    with pytest.raises(UserError, match="no recipe 'smok'; did you mean 'smoke'"):
        load_recipe("smok")


@pytest.mark.parametrize("content", ["[1, 2", "- a\n- b\n", "\x00"])
def test_a_file_that_is_no_recipe_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=r"broken\.yaml"):
        load_recipe(str(path))


def test_a_recipe_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\ndescription: Mine.\nbudgets: [2.6e9]\ndataset: {crop_size: [128, 256], load_size: 300}\n"
    )
    recipe = load_recipe(str(path))
    assert recipe.dataset.crop_size == (128, 256)
    assert recipe.dataset.load_size == (300, 300)


def test_defaults_hold_without_a_recipe() -> None:
    assert load_recipe(None).teacher == Recipe(name="a", description="b", budgets=("1x",)).teacher


def test_validate_names_the_section() -> None:
    with pytest.raises(UserError, match="teacher: unknown key 'epocs'; did you mean 'epochs'"):
        validate(TeacherConfig, {"epocs": 1}, where="teacher")


SEGMENTER = "evaluate.segmenter.weights.uri=weights/drn-d-105_ms_cityscapes.pth"


def test_trainings_choose_by_the_segmenter_of_the_evaluation_unless_they_say_otherwise():
    recipe = load_recipe("cityscapes", [SEGMENTER])
    assert recipe.evaluate.segmenter is not None
    assert recipe.evaluate.segmenter.architecture == "drn_d_105"
    assert recipe.teacher.segmenter == recipe.distill.segmenter == recipe.evaluate.segmenter
    recipe = load_recipe("cityscapes", [SEGMENTER, "teacher.segmenter=null"])
    assert recipe.teacher.segmenter is None
    assert recipe.distill.segmenter is not None
    without = load_recipe("cityscapes")
    assert (without.evaluate.segmenter, without.teacher.segmenter, without.distill.segmenter) == (None, None, None)


@pytest.mark.parametrize("name", ["cityscapes", "cityscapes-gaugan-5g6", "cityscapes-gaugan-30g"])
def test_recipes_of_street_scenes_say_how_to_get_miou(name: str, tmp_path: Path):
    text = (RECIPE_FOLDER / f"{name}.yaml").read_text()
    head, comment, lines = text.partition("#evaluate:")
    (tmp_path / "mine.yaml").write_text(head + (comment + lines).replace("#", ""))
    recipe = load_recipe(str(tmp_path / "mine.yaml"))
    assert recipe == load_recipe(name, [SEGMENTER])
    assert recipe.distill.segmenter is not None
