import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest

from components.catlib.metrics import catalogue
from components.catlib.metrics.catalogue import (
    BY_KEY,
    METRICS,
    Metric,
    Part,
    by_key,
    distance_of,
    measured_among,
    shortfall,
)
from components.catlib.metrics.features import FeatureIdentity

SOURCE = Path(catalogue.__file__).read_text(encoding="utf-8")
FIELDS = [field.name for field in dataclasses.fields(Metric)]
FACTS: dict[str, Any] = {name: getattr(BY_KEY["l1"], name) for name in FIELDS}


def imported(source: str) -> None:
    """Imports a changed catalogue."""
    exec(compile(source, "catalogue.py", "exec"), {"__name__": "changed_catalogue"})


@pytest.fixture(autouse=True)
def module(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dataclasses look their module up."""
    monkeypatch.setitem(sys.modules, "changed_catalogue", catalogue)


@pytest.mark.parametrize("name", FIELDS)
def test_forgetting_a_field_of_an_entry_stops_the_import(name: str):
    imported(SOURCE)
    entry = SOURCE[SOURCE.index('        key="l1"') : SOURCE.index('        key="psnr"')]
    shortened = re.sub(rf"(?m)^        {name}=.*\n", "", entry)
    assert shortened != entry
    with pytest.raises(TypeError, match=f"missing 1 required keyword-only argument: '{name}'"):
        imported(SOURCE.replace(entry, shortened))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("label", '""', "the metric 'l1' has no label"),
        ("meaning", '""', "the metric 'l1' has no meaning"),
        ("protocol", "()", "the metric 'l1' has no protocol"),
        ("better", '"smaller"', "expected lower, higher or nearest"),
        ("best", "math.inf", "a finite value"),
        ("digits", "-1", "at least 0 digits"),
        ("key", '"psnr"', "several metrics have the key psnr"),
        ("label", '"PSNR"', "several metrics have the label PSNR"),
        ("protocol", '(Part("similarity", "another sentence"),)', "the part similarity .* has different contents"),
    ],
)
def test_an_entry_that_is_blank_or_contradicts_another_stops_the_import(field: str, value: str, message: str):
    entry = SOURCE[SOURCE.index('        key="l1"') : SOURCE.index('        key="psnr"')]
    changed = re.sub(rf"(?m)^        {field}=.*\n", lambda _: f"        {field}={value},\n", entry)
    with pytest.raises(ValueError, match=message):
        imported(SOURCE.replace(entry, changed))


def test_a_part_of_the_protocol_that_nothing_describes_stops_the_import():
    script = (
        "from components.catlib.metrics import catalogue\n"
        "from dataclasses import replace\n"
        "first, *others = catalogue.METRICS\n"
        "catalogue.METRICS = (replace(first, protocol=(catalogue.Part('weather'),)), *others)\n"
        "import components.catlib.metrics.protocol"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert "ValueError: nothing describes these parts of the protocol: weather" in found.stderr


def test_the_order_decides_what_training_keeps_and_a_report_leads_with():
    keys = list(BY_KEY)
    assert set(keys) >= {"miou", "fid", "frechet_random_features", "kid", "l1", "psnr", "ssim", "lpips"}
    assert keys[:3] == ["miou", "fid", "frechet_random_features"]
    assert keys[-2:] == ["gradient_energy_ratio", "checkerboard_ratio"]
    assert [metric.key for metric in measured_among({"l1", "kid", "fid", "kid_std", "images"})] == ["fid", "kid", "l1"]


def test_keys_and_labels_are_unique():
    assert list(by_key(METRICS)) == [metric.key for metric in METRICS]
    with pytest.raises(ValueError, match="several metrics have the label L1"):
        by_key([Metric(**FACTS), Metric(**FACTS | {"key": "l1_again"})])
    with pytest.raises(ValueError, match="the part similarity of the protocol has different contents"):
        by_key([Metric(**FACTS), Metric(**FACTS | {"key": "k", "label": "K", "protocol": (Part("similarity", "?"),)})])


def test_the_shortfall_is_the_distance_to_the_best_possible_value():
    assert shortfall("miou", 40.0) == 60.0
    assert shortfall("ssim", 1.0) == 0
    assert shortfall("fid", 30.0) == 30.0
    assert shortfall("psnr", 30.0) == 70.0
    assert shortfall("kid", -0.01) == -0.01
    assert shortfall("gradient_energy_ratio", 0.75) == shortfall("gradient_energy_ratio", 1.25) == 0.25
    assert shortfall("checkerboard_ratio", 3.0) == 2.0


def test_every_feature_network_has_a_distance_and_only_inceptions_is_called_fid():
    networks = get_args(FeatureIdentity.model_fields["name"].annotation)
    assert {network: distance_of(network).key for network in networks} == {
        "inception": "fid",
        "random": "frechet_random_features",
    }
    assert [metric.key for metric in METRICS if metric.label == "FID"] == ["fid"]
    assert "not FID" in BY_KEY["frechet_random_features"].meaning
    assert "not FID" in BY_KEY["frechet_random_features"].caveat


def test_values_are_written_with_their_digits_and_unit():
    assert BY_KEY["psnr"].text(14.436) == "14.44 dB"
    assert Metric(**FACTS | {"digits": 1}).text(-0.25) == "−0.2"


def test_the_direction_is_written_in_words_and_as_a_sign():
    assert BY_KEY["l1"].heading == "L1, lower is better"
    assert BY_KEY["gradient_energy_ratio"].heading == "Gradient energy, nearest to 1 is better"
    arrows = {key: BY_KEY[key].arrow for key in ("fid", "ssim", "gradient_energy_ratio")}
    assert arrows == {"fid": "↓", "ssim": "↑", "gradient_energy_ratio": "→ 1"}


@pytest.mark.parametrize("module", ["components.catlib.metrics.catalogue", "components.catlib.reporting.page"])
def test_what_a_page_reads_loads_no_library_of_scoring(module: str):
    script = (
        f"import sys, {module}; print(*sorted({{'torch', 'skimage', 'torchmetrics', 'scipy'}} & sys.modules.keys()))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
