"""A browser and the page that it looks at; skipped where there is no Chromium."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from components.catlib.config import ReportConfig
from components.catlib.metrics.segmentation import CLASS_NAMES
from components.report.stage import run as write_report
from tests.browser.chromium import NoAnswerError, Tab, chromium_tab, find_chromium
from tests.components.report.small_run import add_segmentation, write_small_run


@pytest.fixture(scope="session")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    executable = find_chromium()
    if executable is None:
        pytest.skip("there is no Chromium here (Debian: apt-get install chromium)")
    try:
        with chromium_tab(executable, tmp_path_factory.mktemp("profile")) as opened:
            yield opened
    except NoAnswerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every section."""
    folder = tmp_path_factory.mktemp("run")
    run = write_small_run(folder, budgets=("0.5x", "0.3x", "0.2x"))
    confusion = (100 * np.eye(len(CLASS_NAMES), dtype=int) + 20 * np.eye(len(CLASS_NAMES), k=1, dtype=int)).tolist()
    seen = {"iou": [40.0 + number for number in range(len(CLASS_NAMES))], "confusion": confusion}
    facts = {"classes": CLASS_NAMES, "generators": {"teacher": seen, "student": seen}}
    add_segmentation(run, facts, miou={"teacher": 49.0, "student": 48.0})
    config = ReportConfig(name="relief-to-satellite", description="Relief maps to satellite pictures.")
    write_report(config, output=folder / "report", **run.inputs())
    return folder / "report" / "report.html"
