"""Whether a response has the shape that was asked for, by the rules of three papers."""

import re
from typing import Literal

from longthink.rewards.base import TextReward

__all__ = ["Format"]

TAGS = ("<think>", "</think>", "<answer>", "</answer>")
STRICT = re.compile(r"<think>(.*)</think>\s*<answer>(.*)</answer>", re.DOTALL)


class Format(TextReward):
    r"""1 for a response of the right shape, else 0.

    `style`: `open_rs` wants exactly one `</think>` on a line of its own and nothing else (its prompt opens `<think>`, and asks
    for answer tags that its code never looks for); `deepscaler` wants `<think>` and `</think>` somewhere; `still` is STILL-3
    Zero's gate: `<think>…</think><answer>…</answer>` and nothing around or between but blanks, each tag once, neither part
    empty; `answer` wants text after the only `</think>`. With `think = "template"` the prompt's template has opened
    `<think>`, which then counts as the response's first tag for `deepscaler` and `still`.
    Source: Open-RS 2.3, DeepScaleR 1.3 and STILL-3's code, each as its code has it.

    >>> Format(style="open_rs").score("so\n</think>\n7"), Format(style="still").score("<think> a </think> <answer>7</answer>")
    (1.0, 1.0)
    >>> Format(style="still", think="template").score("a</think> so <answer>7</answer>")
    0.0
    """

    style: Literal["open_rs", "deepscaler", "still", "answer"] = "answer"

    def score(self, response: str) -> float:
        text = f"<think>{response}" if self.think == "template" and not response.lstrip().startswith("<think>") else response
        match self.style:
            case "open_rs":
                return float(response.count("\n</think>\n") == 1)
            case "deepscaler":
                return float("<think>" in text and "</think>" in text)
            case "still":
                found = STRICT.fullmatch(text.strip()) if all(text.count(tag) == 1 for tag in TAGS) else None
                return float(found is not None and bool(found[1].strip()) and bool(found[2].strip()))
            case "answer":
                return float(response.count("</think>") == 1 and bool(response.partition("</think>")[2].strip()))
