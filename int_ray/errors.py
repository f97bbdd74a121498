"""Errors that end a run."""


class RunError(RuntimeError):
    """The run cannot go on, through no fault of its configuration; its last checkpoint can be resumed."""


class Resumable(RunError):
    """The run stopped on purpose, with a checkpoint of where it stands."""


class Stopped(Resumable):
    """The run was asked to stop (SIGTERM)."""


class LearnerError(RunError):
    """A rank of the learner died, came late or failed: none of them can go on."""
