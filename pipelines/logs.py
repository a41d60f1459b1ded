"""Log lines of a run's stages on a cluster, read through Kubeflow's API."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator
from typing import Any

import kfp_server_api

from components.catlib.errors import UserError
from components.kubeflow import refusal
from pipelines.connection import REQUEST_ERRORS, REQUEST_SECONDS, Kubeflow, reason
from pipelines.runs import Run, Task

logger = logging.getLogger(__name__)

NOT_OFFERED = (404, 405, 501)
"""Statuses with which a server refuses a path that it does not have."""

_STAGE_LINE = re.compile(r"\[[\w-]+\] (.*)")


def read_logs(kubeflow: Kubeflow, run: Run, *, task: str | None = None, follow: bool) -> Iterator[tuple[str, str]]:
    """Reads the log lines of a run's stages.

    Args:
        kubeflow: An open connection.
        run: The run.
        task: Task whose lines are read; None: all tasks.
        follow: Whether to wait for further lines of running pods.

    Yields:
        Name of a task, and a line.

    Raises:
        UserError: There is no such task.
    """
    chosen = [each for each in run.tasks if task in (None, each.name)]
    if not chosen:
        names = ", ".join(sorted({each.name for each in run.tasks})) or "none yet"
        raise UserError(f"Run {run.run_id} has no task {task!r}; it has {names}.")
    for each in chosen:
        for pod in each.pods:
            try:
                for line in _lines(kubeflow, run.run_id, pod, follow=follow):
                    yield each.name, line
            except REQUEST_ERRORS as error:
                yield each.name, f"(the log of pod {pod} cannot be read: {reason(error)})"


def stage_error(kubeflow: Kubeflow, run: Run, task: Task) -> UserError | None:
    """Returns the error with which a stage ended; None if it did not end with one, or its log is gone."""
    if task.pods:
        try:
            for line in _lines(kubeflow, run.run_id, task.pods[-1], follow=False):
                if (found := _STAGE_LINE.search(line)) and (error := refusal(found[1])):
                    return error
        except REQUEST_ERRORS as error:
            logger.info("the log of %s cannot be read: %s", task.pods[-1], reason(error))
    return None


def _lines(kubeflow: Kubeflow, run_id: str, pod: str, *, follow: bool) -> Iterator[str]:
    answer = _open_log(kubeflow, run_id, pod, follow=follow)
    try:
        answer.auto_close = False  # else it counts as closed while lines are still in the buffer
        for line in io.TextIOWrapper(io.BufferedReader(answer), encoding="utf-8", errors="replace"):
            yield line.rstrip("\n")
    finally:
        answer.close()


def _open_log(kubeflow: Kubeflow, run_id: str, pod: str, *, follow: bool) -> Any:
    """Opens a pod's log at one of several paths: releases of the API, and the interface, differ in the path."""
    query = [("follow", "true")] if follow else []
    place = {"runid": run_id, "podname": pod, "podnamespace": kubeflow.connection.namespace}
    of_interface = [(name, value) for name, value in place.items() if value]
    paths = (
        (f"/apis/v2beta1/runs/{run_id}/nodes/{pod}/log", query),
        (f"/apis/v1alpha1/runs/{run_id}/nodes/{pod}/log", query),
        ("/k8s/pod/logs", of_interface + query),
    )
    for path, parameters in paths[:-1]:
        try:
            return _stream(kubeflow, path, parameters, follow=follow)
        except kfp_server_api.ApiException as error:
            if error.status not in NOT_OFFERED:
                raise
    return _stream(kubeflow, *paths[-1], follow=follow)


def _stream(kubeflow: Kubeflow, path: str, query: list[tuple[str, str]], *, follow: bool) -> Any:
    return kubeflow.api.call_api(
        path,
        "GET",
        query_params=query,
        auth_settings=["Bearer"],
        _preload_content=False,
        _request_timeout=(REQUEST_SECONDS[0], None) if follow else None,
    )
