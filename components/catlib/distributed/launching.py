"""Starts one process per GPU of this machine, as `torchrun` does, from within Python."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from components.catlib.errors import Interrupted, UserError


def on_every_gpu(run: Callable[..., None], *arguments: Any, **keywords: Any) -> None:
    """Runs a training stage in one process per GPU, as one training; with at most one GPU, in this process.

    Args:
        run: The stage's function; other processes import it by its name.
        arguments: Positional arguments of `run`, picklable.
        keywords: Keyword arguments of `run`, picklable.

    Raises:
        UserError: `run` raised it.
        Interrupted: `run` raised it, or this process got SIGTERM, which it passes on.
    """
    count = torch.cuda.device_count()
    if count < 2:
        run(*arguments, **keywords)
        return
    settings = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
    )
    level = logging.getLogger().level
    try:
        outcomes: Mapping[int, Exception | None] = elastic_launch(settings, _outcome)(run, arguments, keywords, level)
    except SignalException as stopped:
        raise Interrupted("Stopped by a signal; the state is saved where there is a checkpoint folder.") from stopped
    for outcome in outcomes.values():
        if outcome is not None:
            raise outcome


def _outcome(
    run: Callable[..., None], arguments: tuple[Any, ...], keywords: dict[str, Any], level: int
) -> Exception | None:
    """Runs in each process; returns expected errors, because raised ones would come back as text."""
    name = os.environ["RANK"]
    logging.basicConfig(stream=sys.stderr, level=level, format=f"[process {name}] %(message)s")
    try:
        run(*arguments, **keywords)
    except (UserError, Interrupted) as answer:
        return answer
    return None
