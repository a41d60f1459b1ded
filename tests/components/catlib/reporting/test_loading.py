"""Loading is most of a small stage: pages and summaries load matplotlib only when they draw a chart."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["glance", "page", "summary"])
def test_matplotlib_waits_for_a_chart(module: str) -> None:
    program = f"import sys; import components.catlib.reporting.{module}; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
