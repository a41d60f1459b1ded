"""Every command, killed for good at any moment and then run again, ends with what it makes undisturbed, bit by bit."""

import os
import random
from pathlib import Path

import pytest

from tests.faults.killing import COMMANDS, FAMILIES, Moment, Place, differences, make_place, random_moment, run

KILLS = int(os.environ.get("CAT_TEST_KILLS", "200"))
EXPENSIVE = {"export": 0.2}
"""Stages that are killed more rarely, because each run of them takes long: share of the kills of the others."""


def killed_until_done(place: Place, stage: str, moments: list[Moment], folder: Path) -> int:
    """Kills a command at these moments, runs it until it ends, and compares; returns the number of kills."""
    output, checkpoint = folder / "output", folder / "state"
    arguments = place.arguments(stage, output, checkpoint)
    codes = [run(arguments, moment) for moment in moments]
    codes.append(run(arguments, Moment()))
    assert codes[-1] == 0, (stage, moments, codes)
    assert not differences(place.folder / stage, output), (stage, moments, codes)
    assert not list(folder.glob(".*.partial")) or -9 in codes
    return codes.count(-9)


@pytest.mark.faults
def test_two_hundred_kills_over_all_stages_and_families(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    chance = random.Random(int(os.environ.get("CAT_TEST_SEED", "0")))
    places = [make_place(family, _new(tmp_path / family)) for family in FAMILIES]
    kills: dict[tuple[str, str], int] = {}
    number = 0
    while sum(kills.values()) < KILLS:
        number += 1
        place, effort = places[number % len(places)]
        stage = chance.choices(list(COMMANDS), [EXPENSIVE.get(stage, 1.0) for stage in COMMANDS])[0]
        moments = [random_moment(effort[stage], chance) for _ in range(chance.randint(1, 4))]
        killed = killed_until_done(place, stage, moments, _new(tmp_path / f"killed-{number}"))
        kills[place.family, stage] = kills.get((place.family, stage), 0) + killed
        with capsys.disabled():
            print(f"{sum(kills.values())} kills: {place.family} {stage} {killed}", flush=True)
    missing = [stage for stage in COMMANDS if not any(stage == killed for _, killed in kills)]
    assert not missing, f"never killed: {missing}"


def test_a_few_kills(tmp_path: Path):
    """The cheap stages of one family; `make test-faults` kills all."""
    place, effort = make_place("pix2pix", tmp_path, stages=("dataset", "real-stats", "teacher", "prune"))
    chance = random.Random(1)
    killed = 0
    for stage in ("dataset", "real-stats", "teacher", "prune"):
        moments = [Moment(call=chance.randint(1, effort[stage][1])) for _ in range(3)]
        killed += killed_until_done(place, stage, moments, _new(tmp_path / f"killed-{stage}"))
    assert killed >= 8


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder
