"""docs/benchmarks.md names what the bench and the campaign offer, and no more."""

import re
import shlex
import subprocess
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.benchmarks.cases import CASES
from tests.benchmarks.report import HEADER
from tests.campaign.parts import PARTS

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "benchmarks.md").read_text()
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
    for line in block.splitlines()
]


def test_every_part_of_the_campaign_is_listed():
    assert dict(re.findall(r"^\| `([\w-]+)` \| (.*?) \|$", TEXT, re.MULTILINE)) == {
        name: part.what for name, part in PARTS.items()
    }


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_knows_every_command(command: str):
    done = subprocess.run(["make", "-n", *shlex.split(command)[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"-m tests.{'benchmarks' if ' bench' in command else 'campaign'}" in done.stdout


def test_the_commands_name_cases_and_parts_that_exist():
    patterns = [
        pattern for command in COMMANDS for only in re.findall(r"ONLY='(.*?)'", command) for pattern in only.split(",")
    ]
    assert patterns
    for pattern in patterns:
        assert any(fnmatchcase(name, pattern) for name in CASES)
    for part in re.findall(r"(?:PART=|--part )(\S+)", "\n".join(COMMANDS)):
        assert part in PARTS


def test_the_tables_are_those_of_the_bench():
    header = "| " + " | ".join(HEADER) + " |"
    assert header in TEXT
    shown = {name for name, _form in re.findall(r"^\| ([\w-]+) \| (plain|ours) \|", TEXT, re.MULTILINE)}
    assert shown
    assert shown <= set(CASES)


def test_no_number_of_a_gpu_is_claimed_before_a_card_has_run():
    if "No card has run it" in TEXT:
        assert not re.search(r"NVIDIA \w+,", TEXT)
        assert TEXT.count("not yet run") >= 3
