"""How long the threshold search takes at full size, on one core: a few numbers in milliseconds, printed with `-s`."""

import numpy as np
import pytest

from components.catlib.config import GeneratorConfig, InceptionConfig, InceptionSpadeConfig, NormConfig, PruneConfig
from components.catlib.networks.families import architecture_from_config
from components.catlib.pruning.search import Pruning, prune
from components.catlib.timing import measure

REPEATS = 9
SLACK = 5
"""Shared machines are noisy: the test fails at this multiple of what the search may take on a quiet core."""

FULL_SIZE = {
    "inception ngf 64, 256x256": (InceptionConfig(), 3, (256, 256), "2.6e9", 20),
    "SPADE ngf 64, 256x512": (
        InceptionSpadeConfig(norm=NormConfig(kind="syncbatch", track_running_stats=True)),
        36,
        (256, 512),
        "5.6e9",
        50,
    ),
}


@pytest.mark.parametrize(("config", "in_channels", "size", "budget", "limit_ms"), FULL_SIZE.values(), ids=FULL_SIZE)
def test_search_time(
    config: GeneratorConfig, in_channels: int, size: tuple[int, int], budget: str, limit_ms: float
) -> None:
    teacher = architecture_from_config(config, in_channels=in_channels, out_channels=3, crop_size=size)
    random = np.random.default_rng(0)
    scales = {
        norm.name: (random.normal(size=norm.channels) * random.uniform(0.15, 1)).astype(np.float32)
        for norm in teacher.prunable_norms()
    }
    found: list[Pruning] = []

    def search() -> None:
        found.append(prune(teacher, scales, input_size=size, budget=budget, config=PruneConfig()))

    times = measure({"search": search}, repeats=REPEATS, warmup=1)["search"].milliseconds()
    print(
        f"{config.family}: {times['median']:.1f} ms (median of {REPEATS}, {times['low']:.1f} to {times['high']:.1f}), "
        f"for {len(found[-1].steps)} steps; target {limit_ms} ms"
    )
    assert times["median"] < SLACK * limit_ms
