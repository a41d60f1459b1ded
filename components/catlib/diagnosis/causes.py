"""The causes that the rules know, what to do about each, and a diagnosis: a cause with the numbers that show it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cause:
    """A cause of failure.

    Attributes:
        name: A few words.
        advice: What to do; `{stage}` stands for the section of the recipe that trained.
    """

    name: str
    advice: str

    def seen(self, where: str, evidence: str, *, stage: str = "") -> Diagnosis:
        """Returns the diagnosis of this cause.

        Args:
            where: The stage or the generator that shows it.
            evidence: The numbers that show it.
            stage: The section of the recipe that trained, if the advice depends on it.
        """
        return Diagnosis(self, where, evidence, self.advice.format(stage=stage))


@dataclass(frozen=True)
class Diagnosis:
    """A cause that shows in the records of a run.

    Attributes:
        cause: The cause.
        where: The stage or the generator that shows it.
        evidence: The numbers that show it.
        advice: What to do.
    """

    cause: Cause
    where: str
    evidence: str
    advice: str

    def __str__(self) -> str:
        """Returns it as one sentence."""
        return f"{self.where}: {self.cause.name} ({self.evidence}); {self.advice}"


DISCRIMINATOR_WINS = Cause(
    "the discriminator wins",
    "make it weaker (a smaller {stage}.discriminator.base_channels, {stage}.two_time_scales: false) or the generator "
    "stronger, train with more images, or raise the weight of the losses that compare images",
)
COLLAPSE = Cause(
    "the generator collapses",
    "raise the weight of the losses that hold images to their inputs (reconstruction, cycle, identity, "
    "feature_matching) or lower {stage}.adversarial.weight",
)
LEARNING_RATE = Cause("the learning rate is too high", "lower {stage}.learning_rate by a factor of ten")
BATCH_NORM = Cause(
    "a norm depends on the batch",
    "set teacher.generator.norm.track_running_stats: true (a student's: prune.student_norm) or norm.kind: instance",
)
UNLABELLED_CLASS = Cause(
    "an unlabelled class",
    "label its pixels in the training maps; if 255 is meant, set dataset.dont_care_plane: true; if the class does not "
    "exist, lower dataset.num_labels",
)
SWAPPED_DOMAINS = Cause(
    "swapped domains", "exchange the two domains of one split, so that A and B mean the same in training and test"
)
LEAKED_TEST_SPLIT = Cause(
    "a leaked test split",
    "remove these images from training or from the test split; until then scores say nothing of new ones",
)
CONSTANT_TEACHER = Cause(
    "a constant teacher",
    "train the teacher longer or anew, or give other weights: a student learns nothing from this one",
)
SMALL_ALIGNMENT_BATCH = Cause(
    "too small a batch for kernel alignment", "raise distill.batch_size to 8 or more, or set distill.distiller: mse"
)
STUDENT_CAPACITY = Cause("the student is below capacity", "give it a larger budget, or raise prune.min_channels")
