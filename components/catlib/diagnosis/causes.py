"""The causes that the rules know, with what to do about each, and a diagnosis: a cause, and the numbers that show it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A cause of failure.

    Attributes:
        name: A few words.
        advice: What to do.
    """

    name: str
    advice: str


@dataclass(frozen=True)
class Diagnosis:
    """A cause that shows in the records of a run.

    Attributes:
        cause: The cause.
        where: The stage, dataset or student that shows it.
        evidence: The numbers that show it.
    """

    cause: Cause
    where: str
    evidence: str

    def __str__(self) -> str:
        """Returns it as one sentence."""
        return f"{self.where}: {self.cause.name} ({self.evidence}); {self.cause.advice}"


DISCRIMINATOR_WINS = Cause(
    "the discriminator wins",
    "give it less: a smaller discriminator.base_channels, two_time_scales: false, more training images, or a larger weight "
    "of the reconstruction or cycle loss",
)
COLLAPSE = Cause(
    "the generator collapses",
    "give the loss that holds images to their inputs (reconstruction, cycle, feature_matching) a larger weight, or lower "
    "learning_rate",
)
LEARNING_RATE = Cause("the learning rate is too high", "lower learning_rate")
BATCH_NORM = Cause(
    "a norm depends on the batch",
    "set generator.norm.track_running_stats: true (a student: prune.student_norm), or norm.kind: instance",
)
UNLABELLED_CLASS = Cause(
    "an unlabelled class",
    "label its pixels, or set dataset.dont_care_plane: true; a class that never occurs needs no number: lower num_labels",
)
SWAPPED_DOMAINS = Cause(
    "swapped domains", "exchange the two folders, or halves, of one split, so that A means the same in both"
)
LEAKED_TEST_SPLIT = Cause(
    "a leaked test split", "remove these images from one of the splits; until then the scores say nothing about new images"
)
CONSTANT_TEACHER = Cause(
    "a constant teacher", "train the teacher anew, or give other weights: there is nothing to learn from this one"
)
SMALL_ALIGNMENT_BATCH = Cause(
    "too small a batch for kernel alignment", "raise distill.batch_size, or set distill.distiller: mse"
)
STUDENT_CAPACITY = Cause("the student is below capacity", "raise the budget or prune.min_channels")
