"""What counts as a credential, and that no message repeats one."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from components.__main__ import main
from components.catlib.config import DatasetConfig, Recipe, ReportConfig, TeacherConfig, validate
from components.catlib.credentials import credential_in, refuse_credentials, refuse_in_arguments, without_credentials
from components.catlib.errors import UserError
from components.catlib.recipes import load_recipe, recipe_names
from components.catlib.storage import shown

SECRET = "c4narYSecret0123"
HELD = [
    f"http://user:{SECRET}@host/a.zip",
    f"https://{SECRET}@host/a.zip",
    f"HTTPS://user:{SECRET}@host/a.zip",
    f"http://user:{SECRET}@@host/a.zip",
    f"http://user:{SECRET}/x@host/a.zip",
    f"http://user:{SECRET}?x@host/a.zip",
    f"http:/user:{SECRET}@host/a.zip",
    f"http:\\\\user:{SECRET}@host\\a.zip",
    f"//user:{SECRET}@host/a.zip",
    f"user:{SECRET}@host/a.zip",
    f"http://user%3A{SECRET}%40host/a.zip",
    f"s3://user:{SECRET}@bucket/a.zip",
    f"minio://{SECRET}@bucket/a.zip",
    f"postgresql://user:{SECRET}@host/runs",
    f"databricks://user:{SECRET}@host",
    f"s3://bucket/a.zip?X-Amz-Signature={SECRET}",
    f"https://host/a.zip?X-Amz-Signature={SECRET}",
    f"https://host/a.zip?X-Amz-Credential={SECRET}%2F20261126%2Fus-east-1%2Fs3%2Faws4_request",
    f"https://host/a.zip?raw=1&x-amz-security-token={SECRET}",
    f"https://host/a.zip?AWSAccessKeyId={SECRET}&Expires=1",
    f"https://host/a.zip?Signature={SECRET}",
    f"https://host/a.zip?GoogleAccessId={SECRET}&X-Goog-Signature={SECRET}",
    f"https://host/a.zip?sv=2024-01-01&se=2030-01-01&sp=r&sig={SECRET}",
    "https://host/a.zip?sv=2024-01-01&se=2030-01-01&sp=r",
    f"https://host/a.zip?token={SECRET}",
    f"https://host/a.zip?access_token={SECRET}",
    f"https://host/a.zip?accessToken={SECRET}",
    f"https://host/a.zip?private_token={SECRET}",
    f"https://host/a.zip?api_key={SECRET}",
    f"https://host/a.zip?apikey={SECRET}",
    f"https://host/a.zip?key={SECRET}",
    f"https://host/a.zip?Key-Pair-Id={SECRET}&Policy={SECRET}",
    f"https://host/a.zip?password={SECRET}",
    f"https://host/a.zip?auth={SECRET}",
    f"https://host/a.zip;jsessionid={SECRET}",
    f"https://host/a.zip#access_token={SECRET}",
    f"https://host/a.zip?%74oken={SECRET}",
    f"https://host/fetch?url=https%3A%2F%2Fbucket%2Fa.zip%3FX-Amz-Signature%3D{SECRET}",
    f"https://host/a.zip?code={SECRET}{SECRET}",
    f"https://host/a.zip?{SECRET}{SECRET}",
    "https://host/a.zip?x=AKIAIOSFODNN7EXAMPLE",
    f"https://host/ghp_{SECRET}{SECRET}/a.zip",
    f"https://host/a.zip?x=eyJhbGciOiJIUzI1NiJ9.{SECRET}.{SECRET}",
    f"see https://user:{SECRET}@host for more",
]
HARMLESS = [
    "builtin:relief-to-satellite",
    "horse2zebra",
    "/data/a@b/horse2zebra.zip",
    "photos 12:30/x@y",
    "s3://bucket/a@b/c:d.zip",
    "s3://tenant:bucket/a.zip",
    "https://host:8443/a@b/a.zip",
    "http://[::1]:9000/a.zip",
    "http://mlflow:5000",
    "https://host/a.zip?download=1",
    "https://host/a.zip?raw=true&ref=main",
    "https://host/a.zip?dl=horse2zebra-256x256-v2.zip",
    "https://drive.google.com/uc?export=download&id=0B1TkCAeBXGsmeS1nYVR6dGxSQlE",
    "https://bucket.s3.amazonaws.com/a.zip?versionId=3HL4kqtJvjVBH40Nrjfkd3HL4kqtJvjV",
    "https://host/a.zip?sv=2024-01-01",
    "https://host/a.zip?author=me&keyword=zebra&monkey=1",
    "ghcr.io/cat/pipeline:1.0@sha256:" + "0" * 64,
    "trains a teacher; see arXiv:2103.03467 (300 epochs)",
]


@pytest.mark.parametrize("text", HELD)
def test_a_credential_is_found_and_neither_shown_nor_repeated(text: str) -> None:
    assert credential_in(text)
    assert SECRET not in shown(text)
    assert SECRET not in without_credentials(f"cannot read '{text}', because <{text}> is gone")
    with pytest.raises(UserError, match=r"^dataset\.source holds a .* remove it and ") as caught:
        refuse_credentials({"dataset": {"source": [text]}}, "")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_holds_none_is_left_alone(text: str) -> None:
    assert credential_in(text) == ""
    assert without_credentials(text) == text
    refuse_credentials({"source": text}, "")
    refuse_in_arguments(["--set", f"dataset.source={text}", "--source", text])


def test_the_own_recipes_hold_none() -> None:
    for name in recipe_names():
        load_recipe(name)


SETTINGS = [
    ("dataset.source={}", "dataset.source"),
    ("dataset.source=[{}, photos/]", "dataset.source"),
    ("dataset={{source: '{}'}}", "dataset"),
    ("real_stats.weights.uri={}", "real_stats.weights.uri"),
    ("real_stats.published.uri={}", "real_stats.published.uri"),
    ("teacher.published.generator.uri={}", "teacher.published.generator.uri"),
    ("teacher.family={}", "teacher.family"),
    ("teacher.epochs={}", "teacher.epochs"),
    ("distill.perceptual.weights.uri={}", "distill.perceptual.weights.uri"),
    ("evaluate.segmenter.weights.uri={}", "evaluate.segmenter.weights.uri"),
    ("evaluate.lpips.weights.uri={}", "evaluate.lpips.weights.uri"),
    ("tracking.uri={}", "tracking.uri"),
    ("resources.checkpoints={}", "resources.checkpoints"),
    ("resources.node_selector.a={}", "resources.node_selector.a"),
    ("sweep.variations=[{{published: {{generator: {{uri: '{}'}}}}}}]", "sweep.variations"),
    ("budgets=['{}']", "budgets"),
    ("nothing.such={}", "nothing.such"),
    ("description={}", "description"),
]


@pytest.mark.parametrize(("override", "place"), SETTINGS)
@pytest.mark.parametrize("address", [HELD[0], f"https://host/a.zip?X-Amz-Signature={SECRET}"], ids=["user", "signed"])
def test_no_setting_takes_one(override: str, place: str, address: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^--set {place} holds a") as caught:
        load_recipe("smoke", [override.format(address)])
    assert SECRET not in str(caught.value)
    name, _, value = override.format(address).partition("=")
    nested = json.dumps(value)
    for key in reversed(name.split(".")):
        nested = f"{{{key}: {nested}}}"
    recipe = tmp_path / "own.yaml"
    recipe.write_text("{name: own, description: d, budgets: [0.1x], ...}".replace("...", nested[1:-1]))
    with pytest.raises(UserError, match=rf"^Recipe own\.yaml: {place} holds a") as caught:
        load_recipe(str(recipe))
    assert SECRET not in str(caught.value)


def test_a_recipe_that_is_no_yaml_is_not_repeated(tmp_path: Path) -> None:
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"dataset: {{source: {HELD[0]} : :}}")
    with pytest.raises(UserError, match="is not YAML") as caught:
        load_recipe(str(recipe))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (DatasetConfig, {"source": HELD[0]}),
        (ReportConfig, {"tracking": {"uri": HELD[0]}}),
        (TeacherConfig, {"family": HELD[0]}),
        (TeacherConfig, {"published": {"generator": {"uri": HELD[0]}}}),
    ],
)
def test_a_stage_takes_none_from_the_form_either(model: type, settings: dict) -> None:
    with pytest.raises(UserError, match=r"^section: .* holds a") as caught:
        validate(model, settings, where="section")
    assert SECRET not in str(caught.value)


def test_a_model_made_in_a_notebook_does_not_repeat_it() -> None:
    with pytest.raises(ValidationError, match="source holds a user name or password") as caught:
        DatasetConfig(source=HELD[0])
    assert SECRET not in str(caught.value)
    with pytest.raises(ValidationError) as caught:
        Recipe(name="x", description="d", budgets=(HELD[0],))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--source", HELD[0]], "--source holds a user name or password, .* set CAT_WEB_HOST"),
        ([f"--sourcee={HELD[0]}"], "--sourcee holds"),
        (["--set", f"tracking.uri={HELD[0]}"], r"--set tracking\.uri holds .* set MLFLOW_TRACKING_TOKEN"),
        (["--checkpoint", f"s3://{SECRET}@bucket/x"], "--checkpoint holds .* set AWS_ACCESS_KEY_ID"),
        (["--argument", f"students=[s3://b/a, {HELD[0]}]"], "--argument students holds"),
        (["--host", HELD[0]], "--host holds .* give the token with --token-file"),
        (["--source", f"https://h/a?X-Amz-Signature={SECRET}"], "--source holds .* give the file's s3:// address"),
        ([HELD[0]], "An argument holds"),
    ],
)
def test_no_argument_takes_one_and_the_message_names_the_way(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}") as caught:
        refuse_in_arguments(arguments)
    assert SECRET not in str(caught.value)


def test_a_stage_given_one_ends_with_one_sentence_that_does_not_repeat_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dataset", "--recipe", "smoke", "--source", HELD[0]]) == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("error: --source holds a user name or password")
    assert SECRET not in sentence
