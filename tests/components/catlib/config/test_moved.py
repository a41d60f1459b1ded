"""Settings of version 0.1.0: each is still there, or its old name is refused with the new one."""

from collections.abc import Iterator
from typing import Any

import pytest

from components.catlib.config import Recipe
from components.catlib.config.sections import models_in
from components.catlib.errors import UserError
from components.catlib.recipes import load_recipe

SETTINGS = """
name description budgets dataset.source dataset.sha256 dataset.layout dataset.direction dataset.load_size
dataset.crop_size dataset.prepared_size dataset.num_labels dataset.dont_care_plane dataset.test_fraction
dataset.max_images dataset.on_error real_stats.features real_stats.weights.uri real_stats.weights.sha256
real_stats.published.uri real_stats.published.sha256 real_stats.batch_size teacher.epochs teacher.decay_epochs
teacher.batch_size teacher.learning_rate teacher.adam_betas teacher.two_time_scales teacher.schedule
teacher.step_epochs teacher.plateau_patience teacher.flip teacher.seed teacher.evaluations teacher.evaluation_images
teacher.keep teacher.segmenter.architecture teacher.segmenter.weights.uri teacher.segmenter.weights.sha256
teacher.segmenter.input_size teacher.segmenter.mean teacher.segmenter.std teacher.patience
teacher.time_limit_seconds teacher.ema_decay teacher.precision teacher.tf32 teacher.channels_last teacher.compile
teacher.log_seconds teacher.checkpoint_seconds teacher.keep_checkpoints teacher.gan_objective teacher.lambda_gan
teacher.reconstruction teacher.lambda_recon teacher.lambda_gradient_penalty teacher.lambda_feature
teacher.lambda_vgg teacher.vgg_weights.uri teacher.vgg_weights.sha256 teacher.family teacher.generator.family
teacher.generator.base_channels teacher.generator.num_blocks teacher.generator.kernel_sizes
teacher.generator.channels_reduction_factor teacher.generator.hidden_channels teacher.generator.norm.kind
teacher.generator.norm.affine teacher.generator.norm.track_running_stats teacher.generator.norm.momentum
teacher.generator.norm.epsilon teacher.generator.padding teacher.generator.dropout teacher.generator.activation
teacher.generator.num_upsampling_layers teacher.generator.spade_norm teacher.generator.spade_hidden_channels
teacher.generator.spectral teacher.generator.init teacher.generator.init_gain teacher.discriminator.family
teacher.discriminator.base_channels teacher.discriminator.num_layers teacher.discriminator.num_scales
teacher.discriminator.norm.kind teacher.discriminator.norm.affine teacher.discriminator.norm.track_running_stats
teacher.discriminator.norm.momentum teacher.discriminator.norm.epsilon teacher.discriminator.init
teacher.discriminator.init_gain teacher.lambda_cycle teacher.lambda_identity teacher.image_pool_size
teacher.published.generator.uri teacher.published.generator.sha256 teacher.published.discriminator.uri
teacher.published.discriminator.sha256 teacher.published.generator_backward.uri
teacher.published.generator_backward.sha256 teacher.published.discriminator_backward.uri
teacher.published.discriminator_backward.sha256 prune.generator prune.min_channels prune.max_first_channels
prune.min_feature_channels prune.student_init prune.student_norm.kind prune.student_norm.affine
prune.student_norm.track_running_stats prune.student_norm.momentum prune.student_norm.epsilon prune.student_padding
prune.student_activation distill.epochs distill.decay_epochs distill.batch_size distill.learning_rate
distill.adam_betas distill.two_time_scales distill.schedule distill.step_epochs distill.plateau_patience
distill.flip distill.seed distill.evaluations distill.evaluation_images distill.keep distill.segmenter.architecture
distill.segmenter.weights.uri distill.segmenter.weights.sha256 distill.segmenter.input_size distill.segmenter.mean
distill.segmenter.std distill.patience distill.time_limit_seconds distill.ema_decay distill.precision distill.tf32
distill.channels_last distill.compile distill.log_seconds distill.checkpoint_seconds distill.keep_checkpoints
distill.gan_objective distill.lambda_gan distill.reconstruction distill.lambda_recon distill.lambda_gradient_penalty
distill.lambda_feature distill.lambda_vgg distill.vgg_weights.uri distill.vgg_weights.sha256 distill.distillation
distill.lambda_distill distill.centred_kernels distill.layer_weights distill.discriminator distill.init
distill.init_gain distill.published.generator.uri distill.published.generator.sha256
distill.published.discriminator.uri distill.published.discriminator.sha256 distill.published.generator_backward.uri
distill.published.generator_backward.sha256 distill.published.discriminator_backward.uri
distill.published.discriminator_backward.sha256 evaluate.batch_size evaluate.num_samples evaluate.latency_repeats
evaluate.segmenter.architecture evaluate.segmenter.weights.uri evaluate.segmenter.weights.sha256
evaluate.segmenter.input_size evaluate.segmenter.mean evaluate.segmenter.std evaluate.lpips.backbone
evaluate.lpips.weights.uri evaluate.lpips.weights.sha256 export.opset export.tolerance sweep.variations sweep.seeds
resources.profile resources.stages.cpu resources.stages.memory resources.stages.gpus resources.stages.hours
resources.stages.retries resources.accelerator resources.node_selector resources.tolerations.key
resources.tolerations.operator resources.tolerations.value resources.tolerations.effect resources.store_secret
resources.checkpoints resources.parallel_students resources.days_limit resources.days_kept tracking.uri
tracking.experiment
"""
"""Every setting of version 0.1.0."""

LOSSES = {
    "gan_objective": "adversarial.kind",
    "lambda_gan": "adversarial.weight",
    "lambda_gradient_penalty": "adversarial.gradient_penalty",
    "lambda_recon": "reconstruction.weight",
    "lambda_feature": "feature_matching.weight",
    "lambda_vgg": "perceptual.weight",
    "step_epochs": "schedule.epochs",
    "plateau_patience": "schedule.patience",
}
MOVED = {
    f"{section}.{old}": f"{section}.{new}" for section in ("teacher", "distill") for old, new in LOSSES.items()
} | {
    "teacher.lambda_cycle": "teacher.cycle.weight",
    "teacher.lambda_identity": "teacher.identity.weight",
    "distill.distillation": "distill.distiller.kind",
    "distill.lambda_distill": "distill.distiller.weight",
    "distill.centred_kernels": "distill.distiller.centred",
    "distill.layer_weights": "distill.distiller.layer_weights",
}
MOVED_OUT = {
    f"{section}.{name}": f"resources.{name}"
    for section in ("teacher", "distill")
    for name in ("log_seconds", "checkpoint_seconds", "keep_checkpoints")
}
"""What is in another section now."""
RECIPES = {"feature": "demo-labels", "vgg": "demo-labels", "cycle": "demo-unpaired", "identity": "demo-unpaired"}
"""Which recipe has a setting, where not every one has it: part of its name, and the recipe."""

VGG = [
    (recipe, f"{section}.vgg_weights.uri=a.pth", f"it is '{section}.{loss}.weights' now")
    for section in ("teacher", "distill")
    for recipe, loss in (("demo", "reconstruction"), ("demo-labels", "perceptual"))
]
MOVED_OTHERWISE = {
    "teacher.vgg_weights.uri",
    "teacher.vgg_weights.sha256",
    "distill.vgg_weights.uri",
    "distill.vgg_weights.sha256",
}
GONE = {"teacher.generator.hidden_channels"}
"""What no recipe could use."""


def _paths(annotation: Any, prefix: str = "") -> Iterator[str]:
    for model in models_in(annotation):
        for name, field in model.model_fields.items():
            yield f"{prefix}{name}"
            yield from _paths(field.annotation, f"{prefix}{name}.")


TODAY = set(_paths(Recipe))


@pytest.mark.parametrize("setting", SETTINGS.split())
def test_a_setting_is_there_or_has_moved(setting: str) -> None:
    moved = MOVED | MOVED_OUT
    others = moved.keys() | MOVED_OTHERWISE | GONE
    assert (setting in TODAY) != (setting in others)
    assert setting not in moved or moved[setting] in TODAY


@pytest.mark.parametrize("kept", ["dataset", "resources", "evaluate", "export", "tracking"])
def test_sections_that_keep_all_their_names(kept: str) -> None:
    assert not [setting for setting in MOVED.keys() | GONE if setting.startswith(kept)]


@pytest.mark.parametrize(("old", "new"), (MOVED | MOVED_OUT).items())
def test_an_old_name_is_refused_with_the_new_one(old: str, new: str) -> None:
    recipe = next((name for part, name in RECIPES.items() if part in old.split(".")[1]), "smoke")
    with pytest.raises(UserError) as refused:
        load_recipe(recipe, [f"{old}=1"])
    assert str(refused.value) == f"--set '{old}=1': unknown key '{old}'; it is '{new}' now."


@pytest.mark.parametrize(("recipe", "setting", "answer"), VGG)
def test_weights_of_vgg_have_moved_to_the_loss_that_needs_them(recipe: str, setting: str, answer: str) -> None:
    with pytest.raises(UserError, match=answer):
        load_recipe(recipe, [setting])


def test_what_is_gone_is_an_unknown_key() -> None:
    for setting in GONE:
        with pytest.raises(UserError, match="unknown key"):
            load_recipe("smoke", [f"{setting}=1"])


def test_a_recipe_of_version_0_1_0_is_told_of_its_first_old_name_before_anything_else() -> None:
    """Its weights of VGG19 are under their old name, so they are missing as well."""
    old = "teacher={family: spade, gan_objective: hinge, vgg_weights: {uri: a.pth}}"
    with pytest.raises(UserError, match=r"'teacher\.gan_objective'; it is 'teacher\.adversarial\.kind' now"):
        load_recipe(None, [old])
    with pytest.raises(
        UserError, match=r"'teacher\.lambda_recon': spade has no such setting, only pix2pix; leave it out"
    ):
        load_recipe("demo-labels", ["teacher.lambda_recon=0"])


def test_old_names_in_variations_of_a_sweep_are_refused_too() -> None:
    with pytest.raises(UserError, match=r"variations: unknown key 'distillation'; it is 'distiller\.kind' now"):
        load_recipe("smoke", ["sweep.variations=[{distillation: mse}]"])
    with pytest.raises(UserError, match=r"variations: unknown key 'log_seconds'; it is 'resources\.log_seconds' now"):
        load_recipe("smoke", ["sweep.variations=[{log_seconds: 1}]"])
