"""The teacher engine answers with the task's traces, whole or cut, and nothing of its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from longthink.engines.teacher import TeacherEngine
from longthink.errors import EngineError
from longthink.folder import ModelFolder, tiny_folder
from longthink.model import Decoder
from longthink.tasks.countdown import WORDS, Countdown
from longthink.types import Request, RolloutId, Sampling, Segment

TASK = Countdown()
TEMPLATE = "<bos> {{ messages[0].content }} <think>"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    folder: Path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_folder(folder, WORDS, seed=0, template=TEMPLATE, hidden_size=32, num_hidden_layers=1)
    return ModelFolder(folder)


def requests(opened: ModelFolder, count: int, max_tokens: int) -> list[Request]:
    problems = [TASK.problem("train", index // 2) for index in range(count)]
    ids = [RolloutId(index // 2, index % 2) for index in range(count)]
    prompts = [opened.tokenizer.prompt_ids(p) for p in problems]
    rows = zip(ids, problems, prompts, strict=True)
    return [Request(id, problem, prompt, max_tokens, Sampling(), seed=0) for id, problem, prompt in rows]


def test_traces_come_back_in_full_and_end_with_the_end_token(opened: ModelFolder) -> None:
    engine, asked = TeacherEngine({"": TASK}, opened.tokenizer), requests(opened, 20, max_tokens=1000)
    for request in reversed(asked):
        engine.submit(request)
    rollouts = list(engine.finished())
    assert [r.id for r in rollouts] == [r.id for r in asked]
    for request, rollout in zip(asked, rollouts, strict=True):
        trace = TASK.trace(request.problem, request.id.sample)
        assert opened.tokenizer.decode(rollout.response_ids) == trace
        # one token a word, then <eos>, which has id 1
        assert rollout.num_tokens == len(trace.split()) + 1 and rollout.response_ids[-1] == 1
        assert 1 not in rollout.response_ids[:-1]
        assert rollout.finish_reason == "stop" and rollout.window == 1000 and rollout.problem is request.problem
        (segment,) = rollout.segments
        assert segment.source == "policy" and segment.logprobs is None
    assert list(engine.finished()) == []


def test_the_traces_of_a_problem_differ_by_sample(opened: ModelFolder) -> None:
    engine = TeacherEngine({"": TASK}, opened.tokenizer)
    for request in requests(opened, 20, max_tokens=1000):
        engine.submit(request)
    rollouts = list(engine.finished())
    pairs = zip(rollouts[::2], rollouts[1::2], strict=True)
    assert sum(not np.array_equal(a.response_ids, b.response_ids) for a, b in pairs) > 7


def test_a_trace_is_cut_at_max_tokens(opened: ModelFolder) -> None:
    (request,) = requests(opened, 1, max_tokens=1000)
    engine = TeacherEngine({"": TASK}, opened.tokenizer)
    engine.submit(request)
    (whole,) = engine.finished()
    for limit in (1, 5, whole.num_tokens - 1, whole.num_tokens):
        engine.submit(replace(request, max_tokens=limit))
        (cut,) = engine.finished()
        np.testing.assert_array_equal(cut.response_ids, whole.response_ids[:limit])
        assert cut.finish_reason == ("stop" if limit == whole.num_tokens else "length") and cut.window == limit


def test_requests_may_come_while_others_are_answered(opened: ModelFolder) -> None:
    engine, asked = TeacherEngine({"": TASK}, opened.tokenizer), requests(opened, 6, max_tokens=30)
    engine.submit(asked[3])
    answered = []
    for rollout in engine.finished():
        answered.append(rollout.id)
        if len(answered) == 1:
            for request in (asked[5], asked[0]):
                engine.submit(request)
    assert answered == [asked[3].id, asked[0].id, asked[5].id]


def test_an_aborted_request_is_returned_as_it_came(opened: ModelFolder) -> None:
    engine, (request,) = TeacherEngine({"": TASK}, opened.tokenizer), requests(opened, 1, max_tokens=30)
    begun = Segment("policy", np.array([5, 6]), np.zeros(2, np.float32))
    engine.submit(replace(request, segments=(begun,)))
    rollout = engine.abort(request.id)
    assert rollout.finish_reason == "aborted" and rollout.segments == (begun,)
    assert list(engine.finished()) == []
    with pytest.raises(EngineError, match=r"rollout \(0, 0\) is not running"):
        engine.abort(request.id)


def test_weights_change_nothing(opened: ModelFolder) -> None:
    engine, (request,) = TeacherEngine({"": TASK}, opened.tokenizer), requests(opened, 1, max_tokens=30)
    answers = []
    for version in range(2):
        engine.load(Decoder(opened.config), version)
        engine.submit(request)
        answers += engine.finished()
    np.testing.assert_array_equal(answers[0].response_ids, answers[1].response_ids)
