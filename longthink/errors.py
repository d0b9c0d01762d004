"""The error tree. Every message says what went wrong, what was got, what was expected and where to fix it.

    LongthinkError
    ├── RecipeError       a recipe, an override or a command-line argument is wrong: nothing has started
    ├── TaskError         a data file or a problem in it is wrong
    ├── ModelError        a model folder, its tokenizer or its chat template is wrong
    ├── RewardError       a verifier could not be started or broke its contract
    │   └── SandboxError  programs cannot be run safely here
    ├── EngineError       generation could not go on
    │   └── WorkerLost    a process of the cluster died or is stuck; another can take its place
    │       └── LearnerLost   and with it a part of the learner: the run goes on from its last checkpoint
    ├── LearnerError      an update could not go on (a non-finite loss, say)
    └── CheckpointError   a run folder or a checkpoint in it cannot be used
        └── StorageError  a file could not be written (disk full, read-only)

The command line prints the message alone and exits with status 2. A bad rollout is data, not an
error: it gets a `Verdict` with a status.
"""

import difflib
from collections.abc import Sequence

__all__ = [
    "CheckpointError",
    "EngineError",
    "LearnerError",
    "LearnerLost",
    "LongthinkError",
    "ModelError",
    "RecipeError",
    "RewardError",
    "SandboxError",
    "StorageError",
    "TaskError",
    "WorkerLost",
    "nearest",
    "printable",
]


class LongthinkError(Exception):
    """The base of every error a user can cause or mend."""


class RecipeError(LongthinkError):
    """A recipe, an override or an argument is wrong."""


class TaskError(LongthinkError):
    """A data file or a problem in it is wrong."""


class ModelError(LongthinkError):
    """A model folder, its tokenizer or its chat template is wrong."""


class RewardError(LongthinkError):
    """A verifier could not be started or broke its contract."""


class SandboxError(RewardError):
    """Programs cannot be run safely here, or the process that runs them is lost."""


class EngineError(LongthinkError):
    """Generation could not go on."""


class WorkerLost(EngineError):
    """A process of the cluster died or is stuck."""


class LearnerLost(WorkerLost):
    """A part of the learner is gone with a process."""


class LearnerError(LongthinkError):
    """An update could not go on."""


class CheckpointError(LongthinkError):
    """A run folder or a checkpoint in it cannot be used."""


class StorageError(CheckpointError):
    """A file of the run could not be written."""


def printable(text: str) -> str:
    r"""The text without what a terminal would obey.

    >>> printable("down\x1b[2J")
    'down\\x1b[2J'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def nearest(key: str, known: Sequence[str]) -> str:
    """What was probably meant, in words.

    >>> nearest("windw", ["prompts", "window"])
    'did you mean window?'
    """
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
