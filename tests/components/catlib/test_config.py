"""Recipes: what is accepted, and what a mistake is answered with."""

from pathlib import Path
from typing import Any

import pytest

from components.catlib.config import DistillConfig, Recipe, TeacherConfig, parse_budget, validate, varied
from components.catlib.config.distillers import KernelAlignmentConfig, MseConfig, NoDistillerConfig
from components.catlib.config.losses import PixelLossConfig
from components.catlib.config.schedules import StepConfig
from components.catlib.errors import UserError
from components.catlib.recipes import RECIPE_FOLDER, load_recipe, recipe_names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2.6e9", (2.6e9, "macs")),
        (2.6e9, (2.6e9, "macs")),
        ("0.05x", (0.05, "share")),
        (" 1X ", (1.0, "share")),
        ("15ms", (15.0, "milliseconds")),
        (" 1.5 MS", (1.5, "milliseconds")),
    ],
)
def test_budgets_are_macs_shares_or_milliseconds(text: str | float, expected: tuple[float, str]) -> None:
    assert parse_budget(text) == expected


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("2.6e9", "2.6e+09"),
        ("4131072", "4131072"),
        ("4131072.5", "4131072.5"),
        (" .05X", "0.05x"),
        ("1.50 ms", "1.5ms"),
    ],
)
def test_budgets_are_kept_as_they_were_given(given: str, kept: str) -> None:
    assert load_recipe("smoke", budgets=[given]).budgets == (kept,)


def test_budgets_of_several_units_may_be_separated_by_commas() -> None:
    assert load_recipe("smoke", budgets=["15ms,0.25x", "2e6"]).budgets == ("15ms", "0.25x", "2e+06")


@pytest.mark.parametrize(
    "text", ["", "x", "many", "-1", "0", "nan", "inf", "2.6e9 MACs", "ms", "0ms", "nanms", "-1ms", "5 m s", "5s"]
)
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
        (
            "teacher.reconstruction=vgg",
            r"teacher\.reconstruction\.weights must be given: VGG19 weights.*vgg19-dcbb9e9d",
        ),
        (
            "teacher.family=spade",
            r"'teacher\.generator\.num_blocks': spade has no .*, only pix2pix and cyclegan; leave",
        ),
        ("teacher={family: spade}", r"teacher\.perceptual: .*weights\.uri .*or set perceptual: 0"),
        ("teacher.perceptual=5", "perceptual': pix2pix has no such setting, only spade; leave it out"),
        ("teacher.image_pool_size=20", "image_pool_size': pix2pix has no such setting, only cyclegan; leave it out"),
        ("teacher.adversarial=hinged", r"teacher\.adversarial\.kind: .*'hinge' or 'wgangp' .*'hinged'"),
        ("teacher.adversarial={kind: hinge, gradient_penalty: 1}", "hinge has no such setting, only wgangp; leave it"),
        ("teacher.schedule.epochs=5", "linear has no such setting, only step; leave it out"),
        ("distill.distiller={kind: none, weight: 1}", "none has no such setting, only kernel_alignment and mse"),
        ("distill.family=spade", "distill"),
        (
            "teacher.published={generator_backward: {uri: a.pth}}",
            "generator_backward': pix2pix has no such setting, only cyclegan; leave it out",
        ),
        (
            "teacher.generator.spectral=true",
            "unknown key 'teacher.generator.spectral': pix2pix has no such setting, only spade; leave it out",
        ),
        ("teacher.generator.norn={}", "unknown key 'teacher.generator.norn'; did you mean 'norm'"),
        ("teacher.generator.family=resnet", "teacher.generator.family: .*'inception' .*'resnet'"),
        ("teacher.generator=3", "teacher.generator: .*found 3"),
        ("teacher.discriminator.num_scales=3", "pix2pix has no such setting, only spade; leave it out"),
        ("teacher.discriminator={family: pixel, num_layers: 3}", "pixel has no such setting, only patch; leave it out"),
        (
            "teacher.discriminator.family=multiscale",
            "teacher.discriminator.family: .*'patch' or 'pixel' .*'multiscale'",
        ),
        ("teacher={compile: true, adversarial: wgangp}", "compile: true cannot train with adversarial: wgangp"),
        (
            "teacher={speed: fast, adversarial: wgangp}",
            r"compile: true \(of speed: fast\) cannot train .* compile: false",
        ),
        ("distill.speed=quick", r"distill\.speed: .*'exact' or 'fast'"),
        ("teacher={epochs: 0, decay_epochs: 0, published: {discriminator: {uri: d}}}", "both 0.*published.generator"),
        ("distill.steps=9", "needs a learning rate that falls by the step, but schedule: linear goes by epochs"),
        ("distill={steps: 9, schedule: one_cycle, goes_on_from: [1]}", "steps: 9 and goes_on_from cannot be combined"),
        ("sweep.seeds=[0, 3, 3.0]", r"sweep\.seeds: .*3 is listed twice, which makes the same student again"),
        ("budgets=[0.5x, 0.50x]", r"budgets: 0\.5x is listed twice"),
        ("sweep.seeds=[1000000000000000000000000]", r"sweep\.seeds\.0: .*less than or equal to 1000000000000"),
        ("sweep.seconds=5", "needs its step_seconds and no steps"),
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
        ("horse2zebra", "teacher.reconstruction=5"),
        ("horse2zebra", "teacher.reconstruction=l2"),
        ("demo-labels", "teacher.reconstruction=5"),
        ("demo-labels", "distill.reconstruction=5"),
        ("demo-labels", "teacher.identity=1"),
        ("demo", "distill.feature_matching=1"),
        ("demo-labels", "teacher.generator.num_blocks=6"),
        ("demo-labels", "teacher.generator.padding=zero"),
    ],
)
def test_settings_without_effect_are_refused(recipe: str, setting: str) -> None:
    with pytest.raises(UserError, match=r"has no such setting, only .*; leave it out"):
        load_recipe(recipe, [setting])


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 9, "schedule": "one_cycle"},
        {"steps": None},
        {"steps": None, "schedule": "one_cycle", "goes_on_from": [1]},
        {"steps": 9, "schedule": "one_cycle", "goes_on_from": []},
    ],
)
def test_what_is_said_about_steps_leads_on(settings: dict[str, Any]) -> None:
    length = validate(DistillConfig, {"epochs": 2, "decay_epochs": 2, **settings}, where="distill").total_steps(3)
    assert length == (settings["steps"] or 12)


def test_bare_words_name_kinds_and_bare_numbers_are_weights() -> None:
    recipe = load_recipe("smoke", ["distill.distiller=mse", "distill.distiller.weight=0.5", "teacher.reconstruction=7"])
    assert recipe.distill.distiller == MseConfig(weight=0.5)
    assert recipe.teacher.reconstruction == PixelLossConfig(weight=7)
    assert load_recipe("demo-labels", ["distill.distiller.kind=mse"]).distill.distiller == MseConfig(weight=0.5)
    for name in ("linear", "cosine", "one_cycle", "step"):
        assert load_recipe("smoke", [f"teacher.schedule={name}"]).teacher.schedule.kind == name
    recipe = load_recipe(
        "smoke", ["teacher.schedule=cosine", "teacher.schedule.kind=step", "teacher.schedule.epochs=9"]
    )
    assert recipe.teacher.schedule == StepConfig(epochs=9)


@pytest.mark.parametrize("family", ["pix2pix", "cyclegan", "spade"])
def test_a_distillation_is_one_from_the_teachers_family(family: str) -> None:
    recipe = load_recipe({"pix2pix": "demo", "cyclegan": "demo-unpaired", "spade": "demo-labels"}[family])
    assert recipe.distill.family == recipe.teacher.family == family
    assert "family" not in (RECIPE_FOLDER / f"{recipe.name}.yaml").read_text().partition("distill:")[2]


def test_a_distillation_from_another_family_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: a\ndescription: A.\nbudgets: [1x]\nteacher: {family: cyclegan}\ndistill: {family: pix2pix}\n"
    )
    with pytest.raises(UserError, match=r"distill\.family is pix2pix, but teacher\.family is cyclegan; leave"):
        load_recipe(str(path))


def test_a_variation_changes_single_settings_of_a_loss_unless_its_kind_changes() -> None:
    section = load_recipe("smoke", ["distill.distiller={weight: 0.5, centred: true}"]).section("distill")

    def distiller(change: object) -> object:
        varied_section = varied(section, {"distiller": change})
        return validate(DistillConfig, varied_section, where="sweep.variations").distiller

    assert distiller({"weight": 2}) == KernelAlignmentConfig(weight=2, centred=True)
    assert distiller(2) == KernelAlignmentConfig(weight=2, centred=True)
    assert distiller("kernel_alignment") == KernelAlignmentConfig(weight=0.5, centred=True)
    assert distiller("mse") == MseConfig()
    assert distiller({"kind": "mse", "weight": 3}) == MseConfig(weight=3)
    assert distiller("none") == NoDistillerConfig()
    with pytest.raises(UserError, match=r"sweep\.variations: unknown key 'lambda_distill'; it is 'distiller\.weight'"):
        validate(DistillConfig, varied(section, {"lambda_distill": 0}), where="sweep.variations")


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


@pytest.mark.parametrize("value", [".inf", "-.inf", ".nan", "1e400"])
@pytest.mark.parametrize("setting", ["teacher.learning_rate", "teacher.adversarial.weight", "distill.distiller"])
def test_numbers_that_are_not_finite_are_refused(setting: str, value: str):
    with pytest.raises(UserError, match=setting):
        load_recipe("smoke", [f"{setting}={value}"])


UNTRACKED = {"kind": "syncbatch"}
FILE = {"uri": "weights/generator.pth"}
SPADE_NORM = {"family": "spade", "perceptual": 0, "generator": {"family": "inception_spade", "norm": {"kind": "batch"}}}


@pytest.mark.parametrize(
    "teacher",
    [
        {"generator": {"norm": {"kind": "batch"}}},
        {"family": "cyclegan", "generator": {"norm": UNTRACKED}},
        SPADE_NORM,
        {"generator": {"norm": UNTRACKED}, "start_from": "runs/earlier/teacher"},
        {"generator": {"norm": UNTRACKED}, "published": {"discriminator": FILE}},
        {"family": "cyclegan", "generator": {"norm": UNTRACKED}, "published": {"generator": FILE}},
    ],
)
def test_a_teacher_whose_images_would_depend_on_their_batch_is_refused(teacher: dict[str, Any]) -> None:
    with pytest.raises(
        UserError, match=r"without running statistics.*set teacher\.generator\.norm\.track_running_stats: true\.$"
    ):
        validate(TeacherConfig, teacher, where="It")
    norm = {"norm": {**teacher["generator"]["norm"], "track_running_stats": True}}
    assert validate(TeacherConfig, teacher | {"generator": {**teacher["generator"], **norm}}, where="It")


@pytest.mark.parametrize(
    "teacher",
    [
        {"discriminator": {"norm": {"kind": "batch"}}},
        {"generator": {"norm": UNTRACKED}, "published": {"generator": FILE}},
        {"generator": {"norm": UNTRACKED}, "published": {"generator": FILE}, "epochs": 0, "decay_epochs": 0},
        {"generator": {"norm": UNTRACKED}, "start_from": "generator.pth", "epochs": 0, "decay_epochs": 0},
    ],
)
def test_discriminators_and_files_may_keep_no_running_statistics(teacher: dict[str, Any]) -> None:
    assert validate(TeacherConfig, teacher, where="It")


def test_a_student_whose_images_would_depend_on_their_batch_is_refused(tmp_path: Path) -> None:
    setting = "prune.student_norm={kind: batch}"
    sentence = r"prune\.student_norm\.kind is batch.*set prune\.student_norm\.track_running_stats: true\.$"
    for recipe in ("smoke", "demo-unpaired", "demo-labels"):
        with pytest.raises(UserError, match=sentence):
            load_recipe(recipe, [setting])
    assert load_recipe("smoke", ["prune.student_norm={kind: batch, track_running_stats: true}"])
    file = "distill.published={generator: {uri: student.pth}}"
    assert load_recipe("smoke", [setting, file]).prune.student_norm
    backward = ["prune.generator=target_to_source", setting]
    with pytest.raises(UserError, match=sentence):
        load_recipe("demo-unpaired", [*backward, file])
    assert load_recipe("demo-unpaired", [*backward, "distill.published={generator_backward: {uri: student.pth}}"])


EXACT = {"precision": "fp32", "tf32": False, "channels_last": False, "compile": False, "cudnn_benchmark": False}
SPEED = {"precision": "bf16", "tf32": True, "channels_last": True, "compile": True, "cudnn_benchmark": True}


def test_one_name_stands_for_the_settings_of_speed_and_each_may_differ():
    """What is behind reads the five settings alone; once resolved, they stay as they are."""
    sections = [
        load_recipe("map2sat", overrides).section("teacher")
        for overrides in ([], ["teacher.speed=fast"], ["teacher.speed=fast", "teacher.compile=false"])
    ]
    found = [{name: section[name] for name in SPEED} for section in sections]
    assert found == [EXACT, SPEED, SPEED | {"compile": False}]
    for section in sections:
        assert validate(TeacherConfig, section, where="teacher").model_dump(mode="json", exclude_none=True) == section
    allowed = ["teacher.speed=fast", "teacher.compile=false", "teacher.adversarial=wgangp"]
    assert load_recipe("map2sat", allowed).teacher.adversarial.kind == "wgangp"


@pytest.mark.parametrize(("before", "after", "expected"), [("exact", "fast", SPEED), ("fast", "exact", EXACT)])
def test_a_variation_of_speed_is_one_of_all_its_settings(before: str, after: str, expected: dict[str, Any]):
    section = load_recipe("map2sat", [f"distill.speed={before}"]).section("distill")
    changed = validate(DistillConfig, varied(section, {"speed": after}), where="distill")
    assert {name: getattr(changed, name) for name in SPEED} == expected
    partly = validate(DistillConfig, varied(section, {"speed": after, "precision": "fp16"}), where="distill")
    assert {name: getattr(partly, name) for name in SPEED} == expected | {"precision": "fp16"}
