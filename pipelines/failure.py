"""The failure of a run."""


class RunFailed(Exception):
    """A run failed through no mistake of the user; the message gives the reason, and where to look."""


STAGES_OF_TASKS = {
    "prepare-dataset": "dataset",
    "measure-real-images": "real-stats",
    "train-teacher": "teacher",
    "prune-teacher": "prune",
    "distill-student": "distill",
    "evaluate-student": "evaluate",
    "export-student": "export",
    "write-report": "report",
}
"""The stage of every task whose stage has a name of its own in `resources.stages`."""


def stage_of(task: str) -> str:
    """Returns the stage that a task runs; for tasks that plan or fetch, their own name."""
    return STAGES_OF_TASKS.get(task, task)
