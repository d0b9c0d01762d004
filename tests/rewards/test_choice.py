"""Multiple choice: letters, texts, hedges and forms of golds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longthink.rewards.choice import Choice

# gold, response after the thinking, score
ROWS = [
    ("B", r"\boxed{B}", 1),
    ("B", r"\boxed{(B)}", 1),
    ("B", r"\boxed{\text{(B)}}", 1),
    ("(B)", r"\boxed{b}", 1),
    ("B.", "The answer is (B).", 1),
    ("B", "**Answer: B**", 1),
    ("B", "Answer: B. 5 cm", 1),
    ("B", "<answer>B</answer>", 1),
    ("B", "The correct answer is option B.", 1),
    ("B", "It must be so.\n\nB", 1),
    ("B", "It must be so.\n\n(B) 5 cm", 1),
    ("B", r"Answer: A. No: \boxed{B}", 1),
    ("B", "The answer is A. Wait, the answer is B.", 1),
    ("B", "The answer is B. Wait, the answer is A.", 0),
    ("B", r"\boxed{B} or \boxed{A}", 0),
    ("B", r"\boxed{A \text{ or } B}", 0),
    ("B", r"\boxed{A, B}", 0),
    ("B", r"\boxed{AB}", 0),
    ("B", r"\boxed{A/B}", 0),
    ("B", r"\boxed{ABCD}", 0),
    ("B", r"\boxed{not B}", 0),
    ("B", r"\boxed{}", 0),
    ("B", r"\boxed{\boldsymbol{B}}", 1),
    ("B", "The answer is B because it fits.", 1),
    ("B", "The answer is **B**, Paris.", 1),
    ("B", "The answer is (B) or (C).", 0),
    ("B", r"\boxed{B) or C)}", 0),
    ("B", r"\boxed{B. C}", 0),
    ("B", r"\boxed{B)C)D}", 0),
    ("B", r"\boxed{B. is wrong, C}", 0),
    ("B", r"\boxed{B) incorrect, answer C}", 0),
    ("A, C", r"\boxed{CA}", 1),
    ("B", "I think B or C might do.", 0),
    ("A", "A cat sat on the mat.", 0),
    (["B", "5 cm"], r"\boxed{5\text{ cm}}", 1),
    (["B", "5 cm"], r"\boxed{B) 5 cm}", 1),
    (["B", "5 cm"], r"\boxed{0.05 m}", 1),
    (["B", "5 cm"], r"\boxed{A) 5 cm}", 0),
    (["B", "5 cm"], r"\boxed{6 cm}", 0),
    ("the mitochondrion", r"\boxed{Mitochondrion}", 1),
    ("the mitochondrion", r"\boxed{D. mitochondrion}", 1),
    ("the mitochondrion", r"\boxed{nucleus}", 0),
    ("A, C", r"\boxed{C, A}", 1),
    ("AC", r"\boxed{A and C}", 1),
    ("A, C", r"\boxed{A}", 0),
    ("A, C", r"\boxed{ABC}", 0),
    (3, r"\boxed{3}", 1),
    (3, r"\boxed{4}", 0),
]


@pytest.mark.parametrize(("gold", "response", "score"), ROWS)
def test_rows(gold: object, response: str, score: float) -> None:
    assert Choice().grade(f"<think>Could it be A, B, C?</think> {response}", gold).score == score


def test_thinking_does_not_count_but_is_guessed_from() -> None:
    found = Choice(think="template").grade("the answer is B", "B")
    assert (found.score, found.status, found.detail["lenient"]) == (0.0, "no_answer", 1.0)
    assert Choice().grade("<think>the answer is B", "B").status == "no_answer"
    assert Choice().grade("<think></think> hm", "B").detail == {}


@pytest.mark.parametrize("gold", [None, "", [], {"a": 1}, True])
def test_a_bad_gold_is_our_fault(gold: object) -> None:
    verdict = Choice().grade(r"\boxed{A}", gold)
    assert (verdict.score, verdict.status) == (None, "verifier_error")


@pytest.mark.parametrize("gold", ["B", "(C)", ["D", "5 cm"], "A, C", 4])
def test_the_example_of_a_gold_is_accepted(gold: object) -> None:
    assert Choice().grade(Choice().example(gold), gold).score == 1.0


@given(st.text(alphabet="ABab().,:;& \\{}boxedanswer<>/\n0", max_size=80) | st.text(max_size=60))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_no_response_raises(text: str) -> None:
    for response in (text, rf"</think> \boxed{{{text}}}", f"<answer>{text}</answer>", f"the answer is {text}"):
        assert Choice().grade(response, "B").score in (0.0, 1.0)
