"""Functions that run, compile and submit pipelines, for notebooks and the command line."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.catlib.code_digest import code_digest
from components.catlib.config import DistillConfig, Recipe
from components.catlib.config.budgets import in_milliseconds
from components.catlib.errors import Unavailable, UserError
from components.catlib.exits import note
from components.catlib.recipes import load_recipe, recipe_names, recipe_origin
from components.catlib.storage.retrying import Unreachable
from components.kubeflow import DEFAULT_IMAGE
from components.sweep.stage import MOST_STUDENTS, plan
from pipelines.anew import changes_since, earlier_marks, marked, marks
from pipelines.failure import RunLost
from pipelines.forecasting import Forecast, forecast
from pipelines.latency_tables import check_table, table_of, with_own_table
from pipelines.parameters import all_arguments, earlier_addresses, with_arguments
from pipelines.preflight import Plan, findings, lost_places, report
from pipelines.reuse import Reuse, compare
from pipelines.series import parts, sweeps
from pipelines.versions import check_pinned, content_version, dataset_version, pin_weights, unpinned

__all__ = ["Submitted", "compile_recipe", "load_recipe", "recipe_names", "run", "submit", "submit_in_turn", "validate"]

if TYPE_CHECKING:
    from pipelines.cluster import Cluster, Connection, Run
    from pipelines.compiling import Compiled
    from pipelines.local import LocalRun

PAUSE_SECONDS = 60.0
"""Pause before a lost run is submitted again, so that what was away can come back; each later one is twice as long."""


def _recipe(recipe: str | Recipe, overrides: Sequence[str], budgets: Sequence[str] | None) -> Recipe:
    if isinstance(recipe, Recipe):
        assert not overrides and not budgets, "a loaded recipe has its overrides already"
        return recipe
    return load_recipe(recipe, list(overrides), list(budgets) if budgets else None)


def _check_networks(recipe: Recipe, students: Sequence[DistillConfig]) -> None:
    """Refuses, before a teacher is trained, crops that no network takes, and what the prune stage would refuse later.

    Only the prune stage checks the budgets of published teachers, whose architecture is in their file, and of label
    maps, whose number of planes is in the data.
    """
    from components.catlib.config.measuring import LPIPS_SMALLEST_SIDE
    from components.catlib.data.builtin import LABELLED
    from components.catlib.fitting import check_size
    from components.catlib.networks.families import architecture_from_config
    from components.catlib.pruning.search import check_budget, smallest_student

    size, teacher = recipe.dataset.crop_size, recipe.teacher
    if recipe.prune.generator == "target_to_source" and teacher.family != "cyclegan":
        raise UserError(
            f"prune.generator is target_to_source, but a teacher of family {teacher.family} has only source_to_target; "
            "set prune.generator to that."
        )
    check_size(teacher, size, channels=(3, 3), where="The recipe")
    if recipe.evaluate.lpips is not None and min(size) < LPIPS_SMALLEST_SIDE[recipe.evaluate.lpips.backbone]:
        smallest = LPIPS_SMALLEST_SIDE[recipe.evaluate.lpips.backbone]
        raise UserError(
            f"evaluate.lpips needs images of at least {smallest} pixels a side, but dataset.crop_size is {size}; "
            f"set dataset.crop_size and dataset.load_size to {smallest + 1} or more, or remove evaluate.lpips."
        )
    if teacher.published is not None:
        return
    architecture = architecture_from_config(teacher.generator, **recipe.dataset.channels, crop_size=size)
    smallest_student(architecture, recipe.prune)
    for student in students:
        student.distiller.check_layers(architecture.feature_widths)
    if recipe.dataset.num_labels is None and recipe.dataset.source not in LABELLED:
        table = table_of(recipe)
        for budget in recipe.budgets:
            if table or not in_milliseconds(budget):
                check_budget(architecture, input_size=size, budget=budget, config=recipe.prune, table=table)


def _plan(
    compiled: Compiled, recipe: Recipe, arguments: Mapping[str, Any], *, measures: bool = False, **place: Any
) -> Plan:
    """Checks what stages would refuse (names, types, settings, budgets, size of a sweep); returns the plan of the run.

    The run goes to `place`, and `measures` a missing latency table itself.
    """
    compiled.check_arguments(arguments)
    changed = with_arguments(recipe, compiled.pipeline, arguments)
    if not measures:
        check_table(changed, compiled.pipeline)
    if compiled.pipeline in ("compress", "sweep"):
        sweeping = compiled.pipeline == "sweep"
        students = [student.distill for student in changed.variations()] if sweeping else [changed.distill]
        _check_networks(changed, students)
    if compiled.pipeline == "sweep":
        prune, distill, sweep = changed.section("prune"), changed.section("distill"), changed.sweep
        for grid in sweeps(changed):
            plan(**grid, prune=prune, distill=distill, seconds=sweep.seconds)
    return Plan(compiled.pipeline, changed, arguments, **place)


def _checked_cluster(plan: Plan, connection: Connection, say: Callable[[str], None]) -> Cluster:
    """Checks a run before and after connecting to its cluster, and returns the cluster."""
    from pipelines.cluster import Cluster

    found = list(findings(plan))
    report((each for each in found if each.certain), say)  # before anything is asked or sent
    cluster = Cluster(connection)
    report([*found, *cluster.findings(plan)], say)
    return cluster


def _complete(compiled: Compiled, recipe: Recipe, arguments: Mapping[str, Any], *, here: bool) -> dict[str, Any]:
    """Pins weights, and returns the value of every parameter, with versions of what lies at addresses."""
    changed = with_arguments(recipe, compiled.pipeline, arguments)
    pinned = pin_weights(changed) if changed != recipe else changed
    complete = all_arguments(pinned, compiled.pipeline, arguments)
    complete.setdefault("source_version", dataset_version(changed, here=here))
    if "model_version" in compiled.parameters:
        addresses = [address for _, address in earlier_addresses(compiled.pipeline, arguments)]
        complete.setdefault("model_version", content_version(addresses, parameter="model_version", here=here))
    return complete


def compile_recipe(
    recipe: str | Recipe,
    *,
    pipeline: str = "compress",
    overrides: Sequence[str] = (),
    budgets: Sequence[str] | None = None,
    image: str = DEFAULT_IMAGE,
    pin: bool = True,
) -> Compiled:
    """Compiles a pipeline for Kubeflow.

    Args:
        recipe: A name, the path of a .yaml file, or a loaded recipe.
        pipeline: compress, distill-only, evaluate-only or sweep.
        overrides: `SECTION.KEY=VALUE` texts.
        budgets: Compute budgets that replace the recipe's.
        image: Image of every task; must hold the code of this checkout.
        pin: Whether to look up the digests of weights that the recipe names without one, and the version of the
            images, which then become defaults of the form.

    Raises:
        UserError: The recipe or an override is wrong.
    """
    from pipelines.compiling import compile_pipeline

    settings = _recipe(recipe, overrides, budgets)
    _check_one_run(settings, pipeline, {}, "start it with `run` or `submit --wait`")
    report(lost_places(Plan(pipeline, settings, {}, image=image, in_pods=True)), note)
    check_table(settings, pipeline)
    if not pin:
        return compile_pipeline(pipeline, settings, image=image)
    versions = {"source_version": dataset_version(settings)}
    return compile_pipeline(pipeline, pin_weights(settings), image=image, versions=versions)


def _check_one_run(recipe: Recipe, pipeline: str, arguments: Mapping[str, Any], advice: str) -> None:
    """Refuses a sweep of more students than one run makes."""
    count = len(parts(recipe, pipeline, arguments))
    if count > 1:
        raise UserError(
            f"These students are too many for one sweep (a sweep makes at most {MOST_STUDENTS}, because Kubeflow loses "
            f"track of longer loops). They make {count} sweeps, each of which waits for the one before: {advice}, or "
            "give fewer sweep.seeds."
        )


@dataclass(frozen=True)
class Valid:
    """A run that was checked and not started.

    Attributes:
        compiled: Its pipeline.
        forecast: What it will cost, as far as that is known.
        cached: Tasks that the run takes from the cache, once per student; on a cluster, as the newest run shows it.
        executed: Tasks that it runs. Both are empty if that is unknown.
    """

    compiled: Compiled
    forecast: Forecast
    cached: Sequence[str] = ()
    executed: Sequence[str] = ()


def validate(
    recipe: str | Recipe,
    *,
    connection: Connection | None = None,
    pipeline: str = "compress",
    overrides: Sequence[str] = (),
    budgets: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    image: str = DEFAULT_IMAGE,
    root: str | None = None,
    service_account: str | None = None,
    workspace: Path = Path("runs"),
    say: Callable[[str], None] = note,
) -> Valid:
    """Checks a run without starting it: everything that `run` checks or, with a connection, that `submit` does.

    Args:
        recipe: A name, the path of a .yaml file, or a loaded recipe.
        connection: Address of Kubeflow, and credentials; None: the run would be on this machine.
        pipeline: compress, distill-only, evaluate-only or sweep.
        overrides: `SECTION.KEY=VALUE` texts.
        budgets: Compute budgets that replace the recipe's.
        arguments: Values of the pipeline's parameters that replace the recipe's.
        image: Image of every task on a cluster.
        root: Address below which a run on a cluster writes its artifacts; None: as the cluster is configured.
        service_account: Service account of its pods; None: as the cluster is configured.
        workspace: Folder of local runs, whose cache is asked.
        say: Function that receives a line on what may be wrong.

    Raises:
        UserError: Something is certainly wrong.
    """
    from pipelines.compiling import compile_pipeline

    settings, given = _recipe(recipe, overrides, budgets), arguments or {}
    if connection is None:
        settings = with_own_table(settings, pipeline, given, measure=False)
    compiled = compile_pipeline(pipeline, settings, image=image)
    if connection is None:
        plan = _plan(compiled, settings, given, measures=True)
        with _told_costs(plan, say):
            report(findings(plan), say)
        made = forecast(plan)
        reused = _from_local_cache(compiled, settings, plan, workspace, made)
    else:
        check_pinned(image)
        plan = _plan(compiled, settings, given, image=image, in_pods=True, root=root, service_account=service_account)
        with _told_costs(plan, say):
            cluster = _checked_cluster(plan, connection, say)
        made = forecast(plan)
        reused = _from_clusters_cache(compiled, settings, plan, cluster, made, say)
    return Valid(compiled, made, reused.cached, reused.executed)


@contextlib.contextmanager
def _told_costs(plan: Plan, say: Callable[[str], None]) -> Iterator[None]:
    """Says what a run would cost, as far as it is known, before it is refused: a missing file changes nothing there."""
    try:
        yield
    except UserError:
        with contextlib.suppress(UserError):
            for line in forecast(plan).lines():
                say(line)
        raise


def _from_clusters_cache(
    compiled: Compiled,
    settings: Recipe,
    plan: Plan,
    cluster: Cluster,
    made: Forecast,
    say: Callable[[str], None],
) -> Reuse:
    """Returns the tasks that come from the cache as far as the newest run shows it, and says why others do not."""
    earlier = cluster.newest(plan.pipeline)
    if earlier is None:
        made.notes.append("There is no earlier run of this pipeline, so nothing comes from the cache.")
        return Reuse()
    report(cluster.lost_results(earlier, made_anew=()), say)
    if _follows_from_elsewhere(plan, made):
        return Reuse()
    pinned = pin_weights(settings)
    arguments = _complete(compiled, pinned, plan.arguments, here=False)
    reused = compare(earlier.spec, earlier.arguments, compiled.spec, arguments)
    made.notes += [f"Not from run {earlier.name}: {reason}" for reason in reused.reasons]
    made.notes.append(
        f"The cache was compared with the newest run alone, {earlier.name}; it may hold results of older ones, too."
    )
    return reused


def _follows_from_elsewhere(plan: Plan, made: Forecast) -> bool:
    """Returns, and notes, whether what comes from the cache depends on files elsewhere that nothing pins."""
    unknown = unpinned(plan.sections())
    if unknown:
        made.notes.append(f"What comes from the cache follows from the content of {unknown[0]}, which is elsewhere.")
    return bool(unknown)


def _from_local_cache(compiled: Compiled, settings: Recipe, plan: Plan, workspace: Path, made: Forecast) -> Reuse:
    """Returns the tasks of a local run that come from the cache, and the others, as far as that is known."""
    from pipelines.rehearsing import rehearse

    if not (workspace / "cache").is_dir():
        made.notes.append(f"There are no earlier runs in {workspace}, so nothing comes from the cache.")
        return Reuse()
    if _follows_from_elsewhere(plan, made):
        return Reuse()
    pinned, reused = pin_weights(settings), Reuse()
    for part in parts(pinned, plan.pipeline, plan.arguments):
        arguments = _complete(compiled, pinned, part.arguments(plan.arguments, []), here=True)
        found = rehearse(pinned, pipeline=plan.pipeline, arguments=arguments, workspace=workspace.resolve())
        if found is None:
            return Reuse()
        reused.cached += found[0]
        reused.executed += found[1]
    return reused


def run(
    recipe: str | Recipe,
    *,
    pipeline: str = "compress",
    overrides: Sequence[str] = (),
    budgets: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    output: Path | None = None,
    workspace: Path = Path("runs"),
    image: str | None = None,
    no_cache: Sequence[str] = (),
    say: Callable[[str], None] = note,
) -> LocalRun:
    """Runs a pipeline on this machine; a sweep of many students as several sweeps, one after another.

    Args:
        recipe: A name, the path of a .yaml file, or a loaded recipe.
        pipeline: compress, distill-only, evaluate-only or sweep.
        overrides: `SECTION.KEY=VALUE` texts.
        budgets: Compute budgets that replace the recipe's.
        arguments: Values of the pipeline's parameters that replace the recipe's.
        output: Folder for the report and the students; None: WORKSPACE/RECIPE, or a folder beside it if that holds the
            results of another recipe of the same name. Of several sweeps, the last writes there, the first to
            OUTPUT-sweep-1.
        workspace: Folder for artifacts, cache and logs of all runs.
        image: Image in whose containers the stages run; None: they run in processes.
        no_cache: Stages, or their tasks, that run anew whatever the cache holds.
        say: Function that receives progress lines.

    Raises:
        UserError: The recipe, an argument or the input of a stage is wrong.
        Interrupted: The run was interrupted; the same call resumes it.
        RunFailed: A stage failed.
    """
    from pipelines.compiling import compile_pipeline
    from pipelines.local import check_output, own_folder, run_locally

    given = arguments or {}
    settings = with_own_table(_recipe(recipe, overrides, budgets), pipeline, given, measure=True, say=say)
    compiled = compile_pipeline(pipeline, settings, image=image or DEFAULT_IMAGE)
    report(findings(_plan(compiled, settings, given, image=image)), say)
    settings = pin_weights(settings)
    origin = recipe_origin(recipe) if isinstance(recipe, str) else f"a recipe without a file, {recipe.name}"
    folder = output.resolve() if output else own_folder(workspace.resolve() / settings.name, origin, say)
    anew = marks(no_cache, compiled.spec)
    series = parts(settings, pipeline, given)
    for part in series:
        check_output(part.folder(folder), workspace.resolve())
    runs: list[LocalRun] = []
    for part in series:
        if part.described():
            say(part.described())
        asked = part.arguments(given, [str(run.artifact) for run in runs])
        made = run_locally(
            settings,
            origin=origin,
            pipeline=pipeline,
            arguments=_complete(compiled, settings, asked, here=image is None),
            output=part.folder(folder),
            workspace=workspace.resolve(),
            say=say,
            image=image,
            anew=anew,
        )
        runs.append(made)
    return replace(
        runs[-1],
        executed=[task for run in runs for task in run.executed],
        cached=[task for run in runs for task in run.cached],
        seconds=sum(run.seconds for run in runs),
    )


@dataclass(frozen=True)
class Submitted:
    """A run on a cluster.

    Attributes:
        cluster: The cluster that it runs on.
        run_id: Kubeflow's id of the run.
        link: Address of the run in Kubeflow's interface; "" if only the API's address is known, which has no pages.
        again: Submits it once more with the same arguments; what has finished then comes from the cache.
    """

    cluster: Cluster
    run_id: str
    link: str
    again: Callable[[], Submitted]

    def status(self) -> Run:
        """Reads the state of the run and its tasks."""
        return self.cluster.run(self.run_id)

    def wait(self, say: Callable[[str], None] = note, *, resubmit: int = 0) -> Run:
        """Waits until the run ends, and submits it again, at most `resubmit` times, when the cluster loses it.

        Returns:
            The run that succeeded: this one, or the last that was submitted in its place.

        Raises:
            UserError: A stage refused its input or ran out of memory.
            RunFailed: The run failed, was stopped or lost.
            Interrupted: This process was interrupted; the run goes on.
        """
        from pipelines.resubmitting import watch_and_explain

        submitted = self
        for number in range(resubmit):
            try:
                return watch_and_explain(submitted.cluster, submitted.run_id, say=say)
            except Unreachable:
                raise  # Kubeflow's API stays away, and the run goes on
            except (RunLost, Unavailable) as lost:
                pause = PAUSE_SECONDS * 2**number
                say(f"{str(lost).rstrip('.')}; it is submitted again in {pause:.0f} s, {number + 1} of {resubmit}")
            time.sleep(pause)
            submitted = submitted.again()
            say(f"Run {submitted.run_id}: {submitted.link or submitted.cluster.where_to_look(submitted.run_id)}")
        return watch_and_explain(submitted.cluster, submitted.run_id, say=say)

    def logs(self, task: str | None = None) -> Iterator[tuple[str, str]]:
        """Reads the log lines of the run's stages, as pairs of task and line."""
        return self.cluster.logs(self.run_id, task=task)

    def fetch(self, folder: Path, *, root: str | None = None) -> Path:
        """Downloads the report and students of the run, as `Cluster.fetch` does."""
        return self.cluster.fetch(self.run_id, folder, root=root)


def submit(
    recipe: str | Recipe,
    *,
    connection: Connection,
    pipeline: str = "compress",
    overrides: Sequence[str] = (),
    budgets: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    image: str = DEFAULT_IMAGE,
    experiment: str | None = None,
    root: str | None = None,
    service_account: str | None = None,
    no_cache: Sequence[str] = (),
    say: Callable[[str], None] = note,
) -> Submitted:
    """Starts a pipeline on a cluster.

    Everything that can be checked is checked before anything is sent; see `pipelines.preflight`.

    Args:
        recipe: A name, the path of a .yaml file, or a loaded recipe.
        connection: Address of Kubeflow, and credentials.
        pipeline: compress, distill-only, evaluate-only or sweep.
        overrides: `SECTION.KEY=VALUE` texts.
        budgets: Compute budgets that replace the recipe's.
        arguments: Values of the pipeline's parameters that replace the recipe's.
        image: Image of every task; must hold the code of this checkout.
        experiment: Experiment (group of runs) of the run; None: the recipe's name.
        root: Address below which the run writes its artifacts; None: as the cluster is configured.
        service_account: Service account of its pods; None: as the cluster is configured.
        no_cache: Stages, or their tasks, that run anew whatever the cache holds.
        say: Function that receives a line on what runs anew because image or code changed, and on what may be wrong.

    Raises:
        UserError: The recipe, an argument or the image is wrong, or Kubeflow cannot be reached or refuses.
    """
    from pipelines.compiling import compile_pipeline

    check_pinned(image)
    settings = _recipe(recipe, overrides, budgets)
    compiled, given = compile_pipeline(pipeline, settings, image=image), arguments or {}
    plan = _plan(compiled, settings, given, image=image, in_pods=True, root=root, service_account=service_account)
    _check_one_run(settings, pipeline, given, "give --wait, or call submit_in_turn")
    fresh = marks(no_cache, compiled.spec)
    cluster = _checked_cluster(plan, connection, say)
    if earlier := cluster.newest(pipeline):
        if changes := changes_since(earlier.name, earlier.spec, compiled.spec):
            say(changes)
        report(cluster.lost_results(earlier, made_anew=fresh), say)
        fresh = earlier_marks(earlier.spec) | fresh
    settings = pin_weights(settings)
    compiled = compile_pipeline(pipeline, settings, image=image, code_digest=marked(code_digest, fresh))
    complete = _complete(compiled, settings, given, here=False)

    def start() -> Submitted:
        run_id = cluster.submit(
            compiled,
            complete,
            name=f"{pipeline} {settings.name}",
            experiment=experiment or settings.name,
            root=root,
            service_account=service_account,
        )
        return Submitted(cluster, run_id, cluster.link(run_id), start)

    return start()


def submit_in_turn(
    recipe: str | Recipe,
    *,
    pipeline: str = "sweep",
    overrides: Sequence[str] = (),
    budgets: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    root: str | None = None,
    resubmit: int = 0,
    say: Callable[[str], None] = note,
    **chosen: Any,
) -> tuple[Submitted, Run]:
    """Starts a pipeline on a cluster and waits for it; a sweep of many students as several sweeps, one after another.

    The arguments are those of `submit`, `chosen` its further ones, and `resubmit`, which says how often each run is
    submitted again when the cluster loses it.

    Returns:
        The last run, whose report compares the students of all.

    Raises:
        UserError, RunFailed, Interrupted: As for `submit` and `Submitted.wait`.
    """
    settings = _recipe(recipe, overrides, budgets)
    series = parts(settings, pipeline, arguments or {})
    reports: list[str] = []
    while True:
        part = series[len(reports)]
        if part.described():
            say(part.described())
        asked = part.arguments(arguments or {}, reports)
        submitted = submit(settings, pipeline=pipeline, arguments=asked, root=root, say=say, **chosen)
        say(f"Run {submitted.run_id}: {submitted.cluster.where_to_look(submitted.run_id)}")
        run = submitted.wait(say, resubmit=resubmit)
        if part.is_last:
            return submitted, run
        reports.append(submitted.cluster.report_address(run.run_id, root=root))
