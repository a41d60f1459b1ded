"""Tries on a real cluster what the guide promises, and leaves the namespace as it was.

    make cluster-smoke REGISTRY=registry.example.com/me

needs Kubeflow Pipelines 2.17 on the cluster of KUBECONFIG, and the image of this checkout in the registry
(`make docker-push REGISTRY=…`). HOST names Kubeflow's address if there is one; otherwise a port is forwarded. The trial
takes about an hour, most of it waiting for pods. It ends with 0 if every step did what it promises, with 1 if one did
not, and with 2 before anything is touched if it cannot begin. `--without-kubectl` leaves out what needs kubectl, and
says what was not shown.
"""

import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from components.catlib.errors import UserError
from components.catlib.storage import Storage
from components.image import image_name
from pipelines.cluster import Cluster
from pipelines.commands.options import add_connection, connection_of
from pipelines.connection import REQUEST_ERRORS, reason
from tests.cluster.kubectl import Failure, Kubectl

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "cluster-smoke"
BUDGETS = ("0.2x", "0.3x", "0.5x")
EPOCHS = 600
"""Epochs of the teacher: about two minutes on one core, in which its pod can be deleted."""

RUN_SECONDS, STEP_SECONDS = 3600, 900
"""How long a run may take, and anything else that is waited for."""

NEEDS_KUBECTL = "needs kubectl"


class Smoke:
    """The trial: one method per step, in the order of `STEPS`."""

    def __init__(self, options: argparse.Namespace, folder: Path, kubectl: Kubectl | None) -> None:
        self.kubectl = kubectl
        self.folder = folder
        self.options = options
        self.experiment = f"cluster-smoke-{uuid.uuid4().hex[:6]}"
        self.runs: list[str] = []
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.left_out: list[str] = []
        self.image = options.image or f"{options.registry}/{image_name()}"

    # ------------------------------------------------------------------------------------------------------- commands

    def pipelines(self, command: str, *arguments: str, ends_with: int = 0, seconds: float = STEP_SECONDS) -> str:
        """Runs a command of ours; returns standard output and error together.

        Raises:
            Failure: It ends with another code, or not in time.
        """
        words = [command, *arguments, *self.options.connection]
        shown = f"python -m pipelines {' '.join(words)}"
        try:
            code, said = self.run(words, seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"`{shown}` did not end within {seconds:.0f} s") from None
        with (self.folder / "commands.log").open("a", encoding="utf-8") as log:
            log.write(f"$ {shown}\n{said}(exit code {code})\n")
        if code != ends_with:
            last = "\n".join(said.splitlines()[-5:])
            raise Failure(f"`{shown}` ended with {code} instead of {ends_with}:\n{last}")
        return said

    def run(self, words: list[str], seconds: float) -> tuple[int, str]:
        """Runs a command of ours in a process; returns its exit code and what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
        return done.returncode, done.stdout

    def submit(self, *changes: str, budgets: tuple[str, ...] = ("0.3x",)) -> str:
        """Submits the smoke recipe with changed settings; returns the run's id."""
        answer = self.pipelines("submit", *self._submission(*changes, budgets=budgets), "--json")
        self.runs.append(json.loads(answer.splitlines()[-1])["run_id"])
        return self.runs[-1]

    def _submission(self, *changes: str, budgets: tuple[str, ...] = ("0.3x",)) -> list[str]:
        settings = ("resources.store_secret=cat-store", "resources.checkpoints=s3://cat/checkpoints", *changes)
        # An earlier trial's results are still in Kubeflow's cache, but no longer in a store: this one makes its own.
        version = ["--argument", f"source_version={self.experiment}"]
        words = ["--recipe", "smoke", "--experiment", self.experiment, *version, "--image", self.image]
        words += ["--budget", *budgets]
        return words + [word for setting in settings for word in ("--set", setting)]

    def wait(self, run: str, *, ends_with: int = 0) -> str:
        """Waits for a run with `status --wait`; returns what it printed."""
        return self.pipelines("status", run, "--wait", ends_with=ends_with, seconds=RUN_SECONDS)

    def tasks(self, run: str) -> dict[str, dict[str, Any]]:
        """The tasks of a run, by name."""
        answer = json.loads(self.pipelines("status", run, "--json").splitlines()[-1])
        return {task["name"]: task for task in answer["tasks"]}

    def state(self, run: str) -> str:
        """The state of a run."""
        return json.loads(self.pipelines("status", run, "--json").splitlines()[-1])["state"]

    # ---------------------------------------------------------------------------------------------------------- steps

    def three_budgets(self) -> None:
        """Three students of one teacher; the teacher's pod is deleted during its training, which resumes."""
        saving = (f"teacher.epochs={EPOCHS}", "resources.checkpoint_seconds=5")
        self.first = self.submit(*saving, budgets=BUDGETS)
        if self.kubectl is None:
            self.left_out.append("a deleted training pod comes back and resumes")
        else:
            self._delete_training_pod(self.kubectl)
        self.wait(self.first)
        tasks = self.tasks(self.first)
        students = [name for name in tasks if name.startswith("distill-student")]
        _expect(len(students) == len(BUDGETS), f"run {self.first} shows the students {students}, not {len(BUDGETS)}")
        unfinished = {name: task["state"] for name, task in tasks.items() if task["state"] != "SUCCEEDED"}
        _expect(not unfinished, f"run {self.first} succeeded, but its tasks are {unfinished}")
        if self.kubectl is not None:
            lines = self.pipelines("logs", self.first, "--task", "train-teacher")
            _expect("resumed from the checkpoint" in lines, f"the log of {self.first} shows no resumed training")

    def _delete_training_pod(self, kubectl: Kubectl) -> None:
        def saved() -> bool:
            return any("step-" in name for name in Storage(self.environment).file_names("s3://cat/checkpoints"))

        _until(saved, "the teacher's first checkpoint is in the store")
        pod = self.tasks(self.first)["train-teacher"]["pods"][-1]
        kubectl("delete", "pod", pod, "--wait=false")

    def second_run(self) -> None:
        """The same run again: everything but the report comes from the cache."""
        saving = (f"teacher.epochs={EPOCHS}", "resources.checkpoint_seconds=5")
        run = self.submit(*saving, budgets=BUDGETS)
        self.wait(run)
        states = {name: task["state"] for name, task in self.tasks(run).items() if name != "write-report"}
        anew = {name: state for name, state in states.items() if state != "CACHED"}
        _expect(bool(states) and not anew, f"run {run} repeats what {self.first} did, but its tasks are {anew}")

    def refused_source(self) -> None:
        """A source without images is a user's mistake: one sentence, exit code 2, before or in the run."""
        said = self.pipelines(
            *("submit", *self._submission("dataset.source=s3://cat/no-pictures-here"), "--wait"),
            ends_with=2,
            seconds=RUN_SECONDS,
        )
        _expect("no-pictures-here" in said, f"the refusal does not name the source:\n{said}")
        _expect("Traceback" not in said, f"the refusal is a traceback:\n{said}")

    def out_of_memory(self) -> None:
        """A stage that needs more memory than it gets says so, with the setting to raise."""
        changes = ("resources.stages.teacher={memory: 200Mi, retries: 0}", "teacher.seed=7001")
        run = self.submit(*changes)
        said = self.wait(run, ends_with=1)
        named = re.search("resources.stages.teacher", said) and re.search("(?i)memory|OOMKilled", said)
        _expect(bool(named), f"run {run} ran out of memory, but this is all that is said:\n{said[-800:]}")

    def logs_without_pods(self) -> None:
        """Logs are read from the store once pods are gone."""
        if self.kubectl is None:
            self.left_out.append("logs outlive the pods")
        else:
            self.kubectl("delete", "pods", "--selector", f"pipeline/runid={self.first}")
        lines = self.pipelines("logs", self.first, "--task", "train-teacher")
        _expect("step" in lines, f"the log of train-teacher holds no line of the training:\n{lines[-800:]}")

    def report(self) -> None:
        """The report and an ONNX file per student are fetched without naming any place."""
        folder = self.folder / "report"
        self.pipelines("fetch", self.first, "--output", str(folder))
        _expect((folder / "report.html").stat().st_size > 1000, f"{folder}/report.html is empty")
        models = sorted(str(path.relative_to(folder)) for path in folder.rglob("model.onnx"))
        _expect(len(models) == len(BUDGETS), f"the report holds the models {models}, not {len(BUDGETS)}")

    def cancelled_run(self) -> None:
        """A run that is cancelled ends, and not with success."""
        run = self.submit("teacher.epochs=20000", "teacher.seed=7002")
        self.pipelines("cancel", run)
        _until(lambda: self.state(run) in ("CANCELED", "FAILED"), f"run {run} has ended after `cancel`")

    # ------------------------------------------------------------------------------------------- the cluster around it

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Installs the manifests with keys of their own, and removes everything afterwards."""
        kubectl = self.kubectl
        if kubectl is None:
            self.left_out += ["the manifests install and make the bucket", "the namespace is left as it was"]
            with self._forgotten():
                yield
            return
        ours = kubectl("get", "statefulset,job", "--selector", "app.kubernetes.io/part-of=cat", "--output", "name")
        if ours.split():
            raise UserError(
                f"The namespace {kubectl.namespace} already holds {', '.join(ours.split())}; remove it as "
                "k8s/README.md describes, because this trial would replace its keys."
            )
        before, launcher = kubectl.held(), kubectl.kept("configmap", "kfp-launcher")
        overlay = self._overlay()
        try:
            kubectl("apply", "--kustomize", str(overlay))
            kubectl("wait", "--for=condition=complete", "--timeout=10m", "job/cat-bucket")
            forwarded = kubectl.forwarded("cat-store", 9000, self.folder / "port-forward.log")
            with forwarded as endpoint, self._forgotten():
                self.environment["S3_ENDPOINT"] = endpoint
                yield
        finally:
            self._remove(kubectl, overlay, before, launcher)

    def _overlay(self) -> Path:
        """The overlay with images from the registry and keys that are made here; the checkout's own stay untouched."""
        shutil.copytree(ROOT / "k8s", self.folder / "k8s", ignore=shutil.ignore_patterns("store.env"))
        keys = {"AWS_ACCESS_KEY_ID": f"cat-{secrets.token_hex(4)}", "AWS_SECRET_ACCESS_KEY": secrets.token_hex(24)}
        self.environment |= keys
        file = self.folder / "k8s/base/store.env"
        file.touch(mode=0o600)
        endpoint = f"http://cat-store.{'cat' if self.options.overlay == 'kubeflow' else 'kubeflow'}:9000"
        file.write_text("".join(f"{name}={value}\n" for name, value in {"S3_ENDPOINT": endpoint, **keys}.items()))
        name, _, tag = self.image.rpartition(":")
        overlay = self.folder / "k8s/overlays/smoke"
        overlay.mkdir()
        images: list[dict[str, str]] = [{"name": "cat-pipeline", "newName": name, "newTag": tag}]
        if self.options.registry:
            images.append({"name": "cat-store", "newName": f"{self.options.registry}/cat-store"})
        kustomization = {"kind": "Kustomization", "resources": [f"../{self.options.overlay}"], "images": images}
        (overlay / "kustomization.yaml").write_text(json.dumps(kustomization))
        return overlay

    @contextlib.contextmanager
    def _forgotten(self) -> Iterator[None]:
        """Deletes the runs and the experiment afterwards."""
        try:
            yield
        finally:
            client = Cluster(connection_of(self.options))._client
            try:
                for run in self.runs:
                    client.delete_run(run)
                if self.runs:
                    found = client.get_experiment(experiment_name=self.experiment, namespace=self.options.namespace)
                    client.delete_experiment(found.experiment_id)
            except REQUEST_ERRORS as error:
                raise Failure(f"the trial's runs cannot be deleted from Kubeflow ({reason(error)})") from error

    def _remove(self, kubectl: Kubectl, overlay: Path, before: set[str], launcher: str | None) -> None:
        for run in self.runs:
            kubectl("delete", "workflows.argoproj.io,pods", "--selector", f"pipeline/runid={run}", "--ignore-not-found")
        kubectl("delete", "--kustomize", str(overlay), "--ignore-not-found")
        kubectl("delete", "pvc", "data-cat-store-0", "--ignore-not-found")
        if launcher is not None:
            kubectl("apply", "--filename", "-", given=launcher)
        with contextlib.suppress(Failure):  # the difference says more than the time that has passed
            _until(lambda: kubectl.held() == before, "the namespace is as it was", seconds=120)
        changed = sorted(kubectl.held() ^ before)
        _expect(not changed, f"the namespace {kubectl.namespace} is not as it was: {', '.join(changed)}")


STEPS: tuple[Callable[[Smoke], None], ...] = (
    *(Smoke.three_budgets, Smoke.second_run, Smoke.refused_source, Smoke.out_of_memory),
    *(Smoke.logs_without_pods, Smoke.report, Smoke.cancelled_run),
)


def _expect(holds: bool, sentence: str) -> None:
    if not holds:
        raise Failure(sentence)


def _until(holds: Callable[[], bool], what: str, *, seconds: float | None = None) -> None:
    seconds = STEP_SECONDS if seconds is None else seconds
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            raise Failure(f"waited for {seconds:.0f} s, but it is not so that {what}")
        time.sleep(2)


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


def try_all(smoke: Smoke) -> list[str]:
    """Takes every step; returns a sentence per step that failed. A step that needs a failed one fails, too."""
    failures = []
    for step in STEPS:
        began = time.monotonic()
        try:
            step(smoke)
            _say(f"{step.__name__}: as promised, {time.monotonic() - began:.0f} s")
        except (Failure, UserError, OSError, KeyError, AttributeError) as error:
            failures.append(f"{step.__name__}: {error}")
            _say(f"FAILED {failures[-1]}")
    return failures


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.smoke", description=__doc__)
    parser.add_argument("--registry", default="", help="registry and folder that hold the images, as docker-push fills")
    parser.add_argument("--image", help="the stages' image instead of that of the registry")
    parser.add_argument("--overlay", default="local", help="overlay of k8s/overlays to install")
    parser.add_argument("--kubectl", default="kubectl", help="the kubectl command")
    parser.add_argument(
        "--without-kubectl", action="store_true", help="leave out what needs kubectl, and say what was not shown"
    )
    add_connection(parser)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Tries everything; returns 0 if all promises held, 1 if one did not, 2 if the trial cannot begin."""
    options = _parser().parse_args(arguments)
    folder = BUILD / f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    folder.mkdir(parents=True)
    kubectl = None
    if not options.without_kubectl:
        kubectl = Kubectl(options.kubectl, options.kube_context, options.namespace or options.kubeflow_namespace)
    try:
        with contextlib.ExitStack() as around:
            if not options.registry and not options.image:
                raise UserError("Name the registry that holds the image, as in make cluster-smoke REGISTRY=host/me.")
            if options.host is None and kubectl is not None:
                interface = Kubectl(options.kubectl, options.kube_context, options.kubeflow_namespace)
                log = folder / "port-forward.log"
                options.host = around.enter_context(interface.forwarded("ml-pipeline-ui", 80, log))
            options.connection = connection_of(options).options()
            Cluster(connection_of(options))
            smoke = Smoke(options, folder, kubectl)
            with smoke.installed():
                failures = try_all(smoke)
    except UserError as error:
        _say(f"error: {error}")
        return 2
    except Failure as failure:
        _say(f"FAILED {failure}")
        return 1
    for sentence in smoke.left_out:
        _say(f"not shown: {sentence} ({NEEDS_KUBECTL})")
    _say(f"{len(STEPS) - len(failures)} of {len(STEPS)} steps as promised; every command: {folder}/commands.log")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
