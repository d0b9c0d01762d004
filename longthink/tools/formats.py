"""How a call of the interpreter is written in a response, and how what came back is written behind it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from longthink.types import Ints

__all__ = ["FORMATS", "THOUGHT", "CallFormat", "Piece", "Watch", "pieces"]

THOUGHT = "</think>"  # a program behind it is an answer, not a call


class CallFormat(NamedTuple):
    """What opens and closes a call, and what stands around its output."""

    open: str
    close: str
    before: str
    after: str

    def called(self, text: str) -> str | None:
        r"""The code of the call that ends the text; None where it ends otherwise, or the thinking is over.

        >>> FORMATS["tora"].called("so:\n```python\nprint(6 * 7)\n```")
        '\nprint(6 * 7)\n'
        >>> FORMATS["tora"].called("so:\n```python\nprint(6 * 7)\n```\n```output\n42\n```")
        """
        body = text.rstrip()
        if not body.endswith(self.close) or THOUGHT in body:
            return None
        _, opened, code = body[: -len(self.close)].rpartition(self.open)
        return code if opened and self.close not in code else None

    def shown(self, text: str, output: str) -> tuple[str, str, str]:
        r"""What is inserted behind a call, where `text` ends: the mark before, the output, the mark after.

        >>> "".join(FORMATS["still"].shown("```python\n1\n```\n\n", "42"))
        '```Output\n42\n```\n\n'
        """
        blank = len(text) - len(text.rstrip())
        missing = self.before[: len(self.before) - len(self.before.lstrip())][blank:]
        return missing + self.before.lstrip(), output, self.after

    def said(self, text: str) -> str:
        """The output within what is inserted behind a call."""
        return text.strip().removeprefix(self.before.strip()).removesuffix(self.after.strip()).strip()


FORMATS = {
    # STILL-3's code; the paper shows none
    "still": CallFormat("```python", "```", "\n\n```Output\n", "\n```\n\n"),
    # ToRA, DeepSeekMath, NuminaMath-TIR and Qwen2.5-Math, which STILL-3 4.4 names
    "tora": CallFormat("```python", "```", "\n```output\n", "\n```\n"),
    # for tokenizers that have tokens of their own for these
    "tags": CallFormat("<code>", "</code>", "<output>", "</output>"),
}


class Piece(NamedTuple):
    """A part of a response and who wrote it."""

    text: str
    source: Literal["policy", "tool", "prefix"]


def pieces(text: str, format: CallFormat) -> list[Piece]:
    r"""A response cut at the outputs that stand behind its calls; put together again they are the response.

    >>> [(p.text, p.source) for p in pieces("<code>6*7</code><output>42</output>so 42", FORMATS["tags"])]
    [('<code>6*7</code>', 'policy'), ('<output>42</output>', 'tool'), ('so 42', 'policy')]
    >>> [p.text for p in pieces("```python\nx = 1\n```\n\n```Output\n```\n\nso", FORMATS["still"])]
    ['```python\nx = 1\n```', '\n\n```Output\n```\n\n', 'so']
    """
    found: list[Piece] = []
    begun = at = 0
    mark = format.before.lstrip()
    while (closed := text.find(format.close, at)) >= 0:
        at = closed + len(format.close)
        if format.called(text[:at]) is None:
            continue
        blank = len(text[at:]) - len(text[at:].lstrip())
        if not text.startswith(mark, at + blank):
            continue
        begins = at + blank + len(mark) - mark.endswith("\n")  # an empty output may share the line's end of the mark
        end = text.find(format.after.rstrip(), begins)
        if end < 0:
            continue
        end += len(format.after.rstrip())
        trailing = format.after[len(format.after.rstrip()) :]
        end += next(n for n in range(len(trailing), -1, -1) if text.startswith(trailing[:n], end))
        found += [Piece(text[begun:at], "policy"), Piece(text[at:end], "tool")]
        begun = at = end
    return [*found, Piece(text[begun:], "policy")] if text[begun:] or not found else found


class Watch:
    """Sees the end of a call in tokens as they are drawn."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._triggers = lru_cache(4)(self._found)

    def triggers(self, format: CallFormat) -> Ints:
        """The tokens that a call may end with: those with the last character of what closes one."""
        return self._triggers(format)

    def _found(self, format: CallFormat) -> Ints:
        texts = self.tokenizer.inner.batch_decode([[i] for i in range(len(self.tokenizer))])
        return np.array([i for i, text in enumerate(texts) if format.close[-1] in text], np.int64)

    def called(self, ids: Sequence[int] | Ints, format: CallFormat) -> bool:
        """Whether the response so far ends with a call: its last tokens are looked at first, for most of them end otherwise."""
        tokens = np.asarray(ids, np.int64)
        if not self.tokenizer.decode(tokens[-len(format.close) :]).rstrip().endswith(format.close):
            return False
        return format.called(self.tokenizer.decode(tokens)) is not None
