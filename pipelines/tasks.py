"""The stages of tasks."""

STAGE_OF_TASK = {
    "prepare-dataset": "dataset",
    "measure-real-images": "real_stats",
    "train-teacher": "teacher",
    "prune-teacher": "prune",
    "distill-student": "distill",
    "evaluate-student": "evaluate",
    "export-student": "export",
    "write-report": "report",
    "publish-students": "publish",
    "fetch-teacher": "fetch_teacher",
    "fetch-model": "fetch",
    "plan-sweep": "sweep",
    "check-images": "check",
}
"""The stage whose code a task runs, by the task's name."""


def stage_of(task: str) -> str:
    """Returns the stage that a task runs; for a second task of a stage and for anything else, the name as given."""
    return STAGE_OF_TASK.get(task, task)
