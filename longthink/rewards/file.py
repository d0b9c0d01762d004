"""A reward of your own: one function in one Python file, called in the worker processes."""

import ast
import hashlib
import math
import numbers
import sys
import traceback
import types
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from longthink.errors import RecipeError
from longthink.rewards.base import Reward
from longthink.types import Verdict

__all__ = ["File"]


class File(Reward):
    """What `function(response, gold)` of the file returns: a number; the gold as the data set has it.

    `path` is relative to the folder longthink is started in. The file's hash becomes part of the run's recipe: a run is not
    resumed with another file. The function runs under `deadline_s` in a process of its own that is killed past it; what it
    raises, and a value that is no finite number, is a verdict without a score, whose `detail` says why.

    Example, in `my_reward.py`: `def score(response: str, gold: object) -> float: return float(str(gold) in response)`.
    """

    path: str
    function: str = "score"
    sha256: str = Field("", description="of the file; written by the run, and held against the file from then on")

    @model_validator(mode="after")
    def _there(self) -> Self:
        try:
            text = Path(self.path).read_bytes()
            tree = ast.parse(text, self.path)
        except OSError as error:
            raise ValueError(
                f"path: {self.path} cannot be read ({error.strerror}); relative paths start at {Path.cwd()}"
            ) from None
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"path: {self.path} is not Python: {error}") from None
        names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
        if self.function not in names:
            raise ValueError(f"function: {self.path} defines no {self.function}; it has {', '.join(names) or 'no function'}")
        if self.sha256 and self.sha256 != self.digest:
            raise ValueError(f"path: {self.path} changed since its hash was recorded; put the file back, or start a new run")
        return self

    @property
    def digest(self) -> str:
        """The SHA-256 of the file as it is now."""
        return hashlib.sha256(Path(self.path).read_bytes()).hexdigest()

    def prepare(self) -> None:
        """Run the file. Raises: RecipeError when it raises anything."""
        try:
            loaded(self.path, self.function)
        except (Exception, SystemExit) as error:  # the file is the user's: anything at all
            raise RecipeError(f"{self.path} cannot be run: {type(error).__name__}: {error}") from None

    def read(self, gold: Any) -> Any:
        return gold

    def extract(self, response: str) -> str | None:
        return response

    def judge(self, answer: str, gold: Any) -> Verdict:
        try:
            value = loaded(self.path, self.function)(answer, gold)
        except (Exception, SystemExit) as error:
            lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == self.path]
            why = f"line {lines[-1] if lines else '?'}: {type(error).__name__}: {error}"
            return Verdict(None, "verifier_error", detail={"why": why[:200]})
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            why = f"it returned {value!r}"[:150] + ", expected a finite number"
            return Verdict(None, "verifier_error", detail={"why": why})
        return Verdict(float(value), "ok")


@lru_cache(maxsize=8)
def loaded(path: str, function: str) -> Callable[[str, Any], Any]:
    """The function, from a file that is run once."""
    module = types.ModuleType(f"longthink_reward_{Path(path).stem}")
    module.__file__ = path
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    exec(compile(Path(path).read_bytes(), path, "exec"), vars(module))
    found: Callable[[str, Any], Any] = getattr(module, function)
    return found
