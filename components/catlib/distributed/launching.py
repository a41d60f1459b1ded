"""Starts one process per GPU of this machine, as `torchrun` does, from within Python."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from components.catlib.distributed.ending import ending_together
from components.catlib.errors import EndedElsewhere, Interrupted, UserError
from components.catlib.exits import interrupt, on_stop


def on_every_gpu(run: Callable[..., None], *arguments: Any, **keywords: Any) -> None:
    """Runs a training stage in one process per GPU, as one training; with at most one GPU, in this process.

    Args:
        run: The stage's function; other processes import it by its name.
        arguments: Positional arguments of `run`, picklable.
        keywords: Keyword arguments of `run`, picklable.

    Raises:
        UserError: `run` raised it in any process.
        Interrupted: `run` raised it, or this process was asked to stop, which it passes on.
        RuntimeError: `run` raised another exception in any process, or a process died.
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
        signals_to_handle="SIGQUIT",  # the others are passed on here, without torch's limit of 30 s
    )
    level = logging.getLogger().level
    stops: list[bool] = []

    def pass_on() -> None:
        stops.append(True)
        children = multiprocessing.active_children()
        for child in children:
            child.terminate()
        if not children:
            interrupt()

    with tempfile.TemporaryDirectory(prefix="training-") as folder:
        died: ChildFailedError | None = None
        try:
            with on_stop(pass_on):
                elastic_launch(settings, _outcome)(run, arguments, keywords, level, folder)
        except ChildFailedError as failure:
            died = failure
        for path in sorted(Path(folder).iterdir()):
            raise pickle.loads(path.read_bytes())  # noqa: S301 - our own processes wrote it
    if died is None:
        return
    if stops:
        raise Interrupted("Stopped before the training had begun; the same command starts it.") from died
    rank, end = died.get_first_failure()
    how = signal.Signals(-end.exitcode).name if end.exitcode < 0 else f"exit code {end.exitcode}"
    raise RuntimeError(f"process {rank} of the training died ({how}); the log says more.") from died


def _outcome(
    run: Callable[..., None], arguments: tuple[Any, ...], keywords: dict[str, Any], level: int, folder: str
) -> None:
    """Runs in each process; the one whose exception ends the training writes it to a file.

    Raised exceptions would come back as text, and returned ones not at all when another process has died.
    """
    name = os.environ["RANK"]
    if "OMP_NUM_THREADS" not in os.environ:  # else every process would start threads for all cores of the node
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ["LOCAL_WORLD_SIZE"])))
    logging.basicConfig(stream=sys.stderr, level=level, format=f"[process {name}] %(message)s")
    try:
        with on_stop(interrupt), ending_together():
            run(*arguments, **keywords)
        return
    except EndedElsewhere:
        return
    except (UserError, Interrupted) as expected:
        end: Exception = expected
    except KeyboardInterrupt:
        end = Interrupted("Stopped before or after the steps of the training; the same command goes on.")
    except Exception as error:
        end = RuntimeError(str(error) if type(error) is RuntimeError else f"{type(error).__name__}: {error}")
        end.add_note("".join(traceback.format_exception(error)))
    Path(folder, name).write_bytes(pickle.dumps(end))
