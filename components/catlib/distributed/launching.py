"""Starts one process per GPU of this machine, where nobody else has: `torchrun` from within Python."""

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
    """Calls a training stage in one process per GPU, all of them one training; with at most one GPU, right here.

    Args:
        run: The stage's function, found again by its name in other processes.
        arguments: Of `run`; picklable, as are the keywords.
        keywords: Of `run`.

    Raises:
        UserError: As raised by `run`.
        Interrupted: As raised by `run`, or this process got SIGTERM, which is passed on.
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
    """Runs in each process; returns the errors that are answers, since raised ones would come back as text."""
    name = os.environ["RANK"]
    logging.basicConfig(stream=sys.stderr, level=level, format=f"[process {name}] %(message)s")
    try:
        run(*arguments, **keywords)
    except (UserError, Interrupted) as answer:
        return answer
    return None
