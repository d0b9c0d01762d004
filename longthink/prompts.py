r"""The prompts of the five papers by name, for `task.prompt` of problems from files.

Verbatim where the paper or its code gives one, because a prompt is part of a method: a word more or less is another run.
"""

from collections.abc import Sequence
from typing import NamedTuple

from longthink.errors import TaskError

__all__ = ["PROMPTS", "Message", "dress"]

Message = dict[str, str]


class Prompt(NamedTuple):
    """What stands around a question: a system message, text before and behind it, or a whole text for a model without chat."""

    system: str = ""
    prefix: str = ""
    suffix: str = ""
    text: str = ""


_TAGS = "<think> reasoning process here </think> <answer> answer here </answer>"
_ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant first thinks "
    "about the reasoning process in the mind and then provides the user with the answer. The reasoning process and answer are "
    f"enclosed within <think> </think> and <answer> </answer> tags, respectively, i.e., {_TAGS}.\n\n"
)
_OPEN_RS = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The assistant "
    "first thinks about the reasoning process in the mind and then provides the user with the answer, and put your final "
    "answer within \\boxed{{}} . The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> "
    f"tags, respectively, i.e., {_TAGS}."
)
_DETAILED = (
    "A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The Assistant first engages "
    "in an internal reasoning process, akin to a stream of consciousness, before providing the User with the answer. The reasoning "
    "process and answer are enclosed within '<think></think>' and '<answer></answer>' tags, respectively. For example:\n\n"
    "<think>\nreasoning process here\n</think>\n<answer>\nanswer here\n</answer>\n\n"
    "The reasoning process includes detailed considerations such as analyzing questions, summarizing relevant findings, "
    "brainstorming new ideas, verifying the accuracy of current steps, refining any errors, and revisiting previous steps. During "
    'this process, the Assistant uses casual, genuine phrases such as: "Hmm", "Wait", "Alternatively", "double check", "I '
    'wonder...", "But", "rethink", etc., to make the reasoning process coherent, clear, and logically sound, effectively simulating '
    "human cognitive processes.\n\n"
)

PROMPTS = {
    # STILL-3's 1.5B run and NVIDIA's instruction following: the chat template and the question, nothing else
    "bare": Prompt(),
    # DeepScaleR 1.4, also NVIDIA's mathematics: one space between
    "deepscaler": Prompt(suffix=" Let's think step by step and output the final answer within \\boxed{}."),
    # Open-RS's training script, its doubled braces included; the paper quotes another sentence for English
    "open_rs": Prompt(system=f"{_OPEN_RS} Note that respond by English, NOT use other languages."),
    # the same without the sentence that its third experiment added
    "open_rs_any": Prompt(system=_OPEN_RS),
    # STILL-3 3.1.2, for base models: the text ends where the thinking has been opened. Its example answer is unreadable in the
    # paper; its grader needs a box.
    "still_short": Prompt(
        text=f"{_ZERO}The assistant shows the reasoning process in <think> </think> tags, and returns the final answer in <answer> "
        "</answer> tags, for example <answer> \\boxed{1} </answer>.\n\nUser: {question}\n\nAssistant:\n<think>"
    ),
    "still_long": Prompt(
        text=f"{_DETAILED}The Assistant shows the reasoning process within '<think></think>' tags, and ONLY return the FINAL ANSWER "
        "within '<answer></answer>' tags. For example: '<answer> \\boxed{1} </answer>'.\n\nUser: {question}\n\nAssistant:\n<think>"
    ),
    # Open-RS's evaluation, which asks otherwise than its training
    "open_rs_eval": Prompt(
        prefix="Solve the following math problem efficiently and clearly.  The last line of your response should be of the following "
        "format: 'Therefore, the final answer is: $\\boxed{ANSWER}$. I hope it is correct' (without quotes) where ANSWER is just the "
        "final number or expression that solves the problem. Think step by step before answering.\n\n"
    ),
    # STILL-3's evaluation; its authors found that it costs the 1.5B model six points on AIME
    "still_suffix": Prompt(suffix="\nPlease reason step by step, and put your final answer within \\boxed{}."),
    # the third prompt mode of STILL-3's evaluation
    "still_system": Prompt(system="You are a helpful and harmless assistant. You should think step-by-step."),
    # STILL-3's distillation of thoughts with code (4.4) has a long prompt of four rules; these are its rules in our words
    "still_code": Prompt(
        prefix="Solve the problem below with the help of Python.\n"
        "1. Say what a program is to find out before you write it.\n"
        "2. Write programs that stand alone between ```python and ```, and print what you need to see.\n"
        "3. Show what each program prints right behind it, between ```Output and ```.\n"
        "4. Go on from what was printed, and put the final answer within \\boxed{}.\n\n"
    ),
    # PRIME, who own the code data NVIDIA trains on
    "code": Prompt(
        suffix="\n\nWrite Python code to solve the problem. Present the code in \n```python\nYour code\n```\nat the end."
    ),
    # NVIDIA takes Reasoning Gym's own; what it asks for, in fewer words
    "logic": Prompt(
        system="Think about the task step by step. Then give the answer alone, in exactly the form the task asks for, between "
        "<answer> and </answer>."
    ),
}


def dress(name: str, messages: Sequence[Message]) -> list[Message]:
    r"""The chat messages with a named prompt around the last question; one of role `text` where the prompt is a whole text.

    A system message takes the place of those there were. A suffix the question ends with is not put twice. Raises: TaskError
    for a conversation of several turns where the prompt is a text.

    >>> dress("deepscaler", [{"role": "user", "content": "1 + 1?"}])[0]["content"]
    "1 + 1? Let's think step by step and output the final answer within \\boxed{}."
    """
    prompt, done = PROMPTS[name], [dict(m) for m in messages]
    last = next(m for m in reversed(done) if m["role"] == "user")
    if prompt.text:
        if sum(m["role"] != "system" for m in done) > 1:
            raise TaskError(f"prompt {name!r} is a text around one question; this row is a conversation of {len(done)} messages")
        return [{"role": "text", "content": prompt.text.replace("{question}", last["content"])}]
    if not last["content"].rstrip().endswith(prompt.suffix.strip() or "\0"):
        last["content"] += prompt.suffix
    last["content"] = prompt.prefix + last["content"]
    if prompt.system:
        done = [{"role": "system", "content": prompt.system}, *(m for m in done if m["role"] != "system")]
    return done
