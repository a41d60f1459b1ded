"""How a run can end."""


class RunFailed(Exception):
    """A run ended for a reason that is not the user's; the message says which, and where to look."""
