"""How calls are written: found at their end, their outputs cut out of a trace, and what is inserted is found again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longthink.tools.formats import FORMATS, pieces

NAMES = sorted(FORMATS)
CALLS = {"still": "```python\n1 + 1\n```", "tora": "```python\n1 + 1\n```", "tags": "<code>1 + 1</code>"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("blank", ["", "\n", "\n\n", " "])
def test_what_is_inserted_behind_a_call_is_cut_out_again(name: str, blank: str) -> None:
    format, text = FORMATS[name], f"so {CALLS[name]}{blank}"
    code = format.called(text)
    assert code is not None and code.strip() == "1 + 1"
    said = "".join(format.shown(text, "2"))
    whole = f"{text}{said}and then {CALLS[name]}"
    assert format.called(f"{text}{said}") is None and format.called(whole) is not None
    found = pieces(f"{whole}{''.join(format.shown(whole, '3'))}the end", format)
    assert [p.source for p in found] == ["policy", "tool", "policy", "tool", "policy"]
    assert "2" in found[1].text and "3" in found[3].text and "".join(p.text for p in found[:2]) == f"{text}{said}"


def test_an_output_is_set_off_by_as_many_lines_as_the_format_has() -> None:
    for ending, inserted in (
        ("", "\n\n```Output\n2\n```\n\n"),
        ("\n", "\n```Output\n2\n```\n\n"),
        ("\n\n", "```Output\n2\n```\n\n"),
    ):
        assert "".join(FORMATS["still"].shown(f"```python\n1\n```{ending}", "2")) == inserted


@pytest.mark.parametrize(
    "text",
    [
        "no code",
        "```python\nprint(1)",
        "```\nnot python\n```",
        "```python\nprint(1)\n```\n\n```Output\n1\n```",  # the model went on by itself
        "</think>\n```python\nprint(1)\n```",  # an answer
        "```python\nprint(1)\n``` and more",
    ],
)
def test_what_is_no_call(text: str) -> None:
    assert FORMATS["still"].called(text) is None


@given(
    st.lists(st.sampled_from(["```python", "```", "```Output", "\n", "x", "</think>", " "]), max_size=14), st.sampled_from(NAMES)
)
def test_pieces_are_the_text(parts: list[str], name: str) -> None:
    found = pieces("".join(parts), FORMATS[name])
    assert "".join(p.text for p in found) == "".join(parts) and all(p.text for p in found[:-1])
