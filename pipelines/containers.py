"""Runs the pipeline's tasks in containers on this machine, with Kubeflow's Docker runner."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from components.catlib.artifacts import code_digest
from components.catlib.config import Recipe
from components.catlib.errors import UserError
from components.catlib.recipes import named_files
from components.catlib.storage.settings import WAIT_VARIABLE
from components.kubeflow import CHECKPOINTS_VARIABLE

if TYPE_CHECKING:
    from docker import DockerClient
    from kfp.local import DockerRunner

RUN_LABEL = "cat-pipeline.run"


@contextlib.contextmanager
def docker_engine() -> Iterator[DockerClient]:
    """Connects to the Docker engine of this machine, or the one that DOCKER_HOST names.

    Raises:
        UserError: The package `docker` is not installed, or no engine answers.
    """
    try:
        import docker
        from docker.errors import DockerException
    except ImportError as error:
        raise UserError("The Docker runner needs the Python package docker: pip install docker.") from error
    try:
        client = docker.from_env()
    except DockerException as error:
        raise UserError(f"No Docker engine answers ({error}); start one or run without --runner docker.") from error
    try:
        yield client
    finally:
        client.close()


def check_image_code(image: str) -> None:
    """Checks that an image holds the code of this folder, because a task's command comes from here and calls it there.

    Raises:
        UserError: There is no such image on this machine, it does not hold the stages, or its code differs.
    """
    program = "from components.catlib.artifacts import code_digest; print(code_digest())"
    with docker_engine() as client:
        from docker.errors import ContainerError, ImageNotFound

        try:
            client.images.get(image)
            answer = client.containers.run(image, ["python", "-c", program], entrypoint=[], remove=True)
        except ImageNotFound as error:
            raise UserError(f"There is no image {image} on this machine; make it with `make docker-image`.") from error
        except ContainerError as error:
            raise UserError(f"The image {image} does not hold the stages; make it with `make docker-image`.") from error
    if answer.decode().strip() != code_digest():
        raise UserError(f"The image {image} holds other code than this folder; make it again with `make docker-image`.")


def docker_runner(recipe: Recipe, *, run: str, checkpoints: Path) -> DockerRunner:
    """Returns the runner of one run: unprivileged containers that write as the user who started the run.

    Args:
        recipe: The recipe; the containers can read the files and folders of this machine that it names.
        run: Name of the run, by which `stop_containers` finds its containers.
        checkpoints: Folder where trainings keep their state.
    """
    from docker.types import Mount
    from kfp import local

    paths = {Path(name).resolve() for name in named_files(recipe.model_dump(mode="json")) if Path(name).exists()}
    checkpoints.mkdir(parents=True, exist_ok=True)
    return local.DockerRunner(
        user=f"{os.getuid()}:{os.getgid()}",
        entrypoint=[],  # Kubeflow gives the whole command
        labels={RUN_LABEL: run},
        mounts=[
            Mount(str(checkpoints), str(checkpoints), type="bind"),
            *(Mount(str(path), str(path), type="bind", read_only=True) for path in sorted(paths)),
        ],
        environment={CHECKPOINTS_VARIABLE: str(checkpoints), WAIT_VARIABLE: os.environ.get(WAIT_VARIABLE, "0")},
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        init=True,
    )


def stop_containers(run: str) -> None:
    """Stops the remaining containers of a run."""
    with docker_engine() as client:
        for container in client.containers.list(filters={"label": f"{RUN_LABEL}={run}"}):
            container.stop()
