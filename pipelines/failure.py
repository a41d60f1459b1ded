"""The failure of a run."""


class RunFailed(Exception):
    """A run failed through no mistake of the user; the message gives the reason, and where to look."""


class RunLost(RunFailed):
    """The cluster lost a run of which no stage failed; submitted again, it may succeed."""
