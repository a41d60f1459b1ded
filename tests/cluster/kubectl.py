"""kubectl, and what a namespace holds: for `tests.cluster.smoke`."""

import contextlib
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from components.catlib.errors import UserError

KINDS = (
    "configmap,secret,service,serviceaccount,statefulset,deployment,job,networkpolicy,persistentvolumeclaim,"
    "workflows.argoproj.io"
)
"""Kinds of which a namespace holds what it held before. Pods of Kubeflow itself come and go."""

GIVEN_BY_KUBERNETES = ("creationTimestamp", "resourceVersion", "uid", "managedFields", "generation")


class Failure(Exception):
    """What was promised did not happen; the message is one sentence."""


class Kubectl:
    """kubectl in one namespace.

    Attributes:
        namespace: The namespace of runs.
    """

    def __init__(self, command: str, context: str | None, namespace: str) -> None:
        self.namespace = namespace
        self._command = [command, *(["--context", context] if context else []), "--namespace", namespace]

    def __call__(self, *arguments: str, given: str | None = None, seconds: float = 900) -> str:
        """Runs kubectl and returns what it prints.

        Raises:
            Failure: It ended with an error, or did not end in time.
            UserError: There is no such command.
        """
        try:
            done = subprocess.run(
                [*self._command, *arguments], input=given, capture_output=True, text=True, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            raise Failure(f"kubectl {' '.join(arguments)} did not end within {seconds:.0f} s") from None
        except OSError as error:
            raise UserError(f"{self._command[0]} cannot be run ({error.strerror}); name it with KUBECTL=.") from error
        if done.returncode:
            raise Failure(f"kubectl {' '.join(arguments)} says: {done.stderr.strip()}")
        return done.stdout

    def held(self) -> set[str]:
        """Names of everything in the namespace that lasts, and of the pods of runs."""
        lasting = self("get", KINDS, "--output", "name").split()
        return {*lasting, *self("get", "pods", "--selector", "pipeline/runid", "--output", "name").split()}

    def kept(self, kind: str, name: str) -> str | None:
        """An object as JSON that `apply` takes, without what Kubernetes adds; None if there is none."""
        text = self("get", kind, name, "--ignore-not-found", "--output", "json")
        if not text.strip():
            return None
        found = json.loads(text)
        for field in GIVEN_BY_KUBERNETES:
            found["metadata"].pop(field, None)
        return json.dumps(found)

    @contextlib.contextmanager
    def forwarded(self, service: str, port: int, log: Path) -> Iterator[str]:
        """Makes a service reachable from this machine; yields its address.

        Raises:
            Failure: It cannot be reached within a minute.
        """
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            here = unused.getsockname()[1]
        with log.open("ab") as file:
            command = [*self._command, "port-forward", f"service/{service}", f"{here}:{port}"]
            process = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", here), timeout=1):
                    break
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Failure(f"kubectl port-forward service/{service} does not work; see {log}")
                time.sleep(0.2)
            yield f"http://127.0.0.1:{here}"
        finally:
            process.terminate()
            process.wait()
