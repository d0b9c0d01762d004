"""What happens between the engine and the groups: order, missing scores, and verdicts taken from the journal."""

from pathlib import Path

import numpy as np
import pytest

from longthink.collect import Collector, Grading, rollout_rows, sample_and_score, timed_verdicts
from longthink.data import DataSource
from longthink.rewards.countdown import Countdown
from longthink.run import Run
from longthink.shape import Parts
from longthink.tables import RolloutSettings, SelectionSettings
from longthink.types import Problem, Request, Rollout, RolloutId, Sampling, Segment, Verdict

PROBLEM = Problem("p", ({"role": "user", "content": "?"},), gold="1")


class Scripted:
    """An engine whose rollouts end in reverse order; the last sample of a group meets the window."""

    def __init__(self):
        self.requests = []

    def submit(self, request):
        self.requests.append(request)

    def finished(self):
        for request in reversed(self.requests):
            reason = "length" if request.id.sample == 2 else "stop"
            segments = (Segment("policy", np.array([request.id.group, request.id.sample]), np.zeros(2, np.float32)),)
            yield Rollout(request.id, PROBLEM, request.prompt_ids, segments, reason, Sampling(), 2)

    def abort(self, id):
        raise AssertionError(id)


class Words:
    def decode(self, ids):
        return " ".join(map(str, ids))


class Graders:
    """A pool that times out on sample 0 and remembers what it was given."""

    def __init__(self):
        self.asked = []

    def submit(self, key, response, gold, reward):
        self.asked.append((key, response, gold))

    def drain(self):
        return {key: Verdict(None, "timeout") if key.sample == 0 else Verdict(1.0, "ok") for key, _, _ in self.asked}


def run(journal, *, grade_truncated=False):
    requests = [Request(RolloutId(g, s), PROBLEM, np.array([7]), 2, Sampling(), 0) for g in range(2) for s in range(3)]
    graders = Graders()
    scored = sample_and_score(
        Scripted(),
        graders,
        Words(),
        requests,
        grading=Grading({"": Countdown()}),
        settings=RolloutSettings(truncated="as_graded" if grade_truncated else "zero"),
        journal=journal,
        progress=lambda done, total: None,
    )
    return scored, graders


def test_results_stand_in_id_order_whatever_order_they_ended_in():
    scored, graders = run({})
    assert [tuple(r.id) for r, _ in scored] == [(g, s) for g in range(2) for s in range(3)]
    assert [v.status for _, v in scored] == ["timeout", "ok", "truncated"] * 2
    assert ((1, 1), "1 1", "1") in graders.asked and all(key.sample != 2 for key, _, _ in graders.asked)


def test_a_truncated_rollout_is_graded_only_when_asked():
    scored, graders = run({}, grade_truncated=True)
    assert len(graders.asked) == 6 and scored[2][1] == Verdict(1.0, "ok")


def test_a_timed_verdict_is_read_from_the_journal_and_never_recomputed():
    first, _ = run({})
    journal = timed_verdicts(rollout_rows(first, 1))
    assert set(journal) == {RolloutId(0, 0), RolloutId(1, 0)}  # grading the others again gives the same
    again, graders = run(journal)
    assert again[0][1] == Verdict(None, "timeout") and all(key.sample != 0 for key, _, _ in graders.asked)
    other = {RolloutId(0, 0): ("another text", Verdict(0.0, "limit"))}
    _, graders = run(other)
    assert any(key == (0, 0) for key, _, _ in graders.asked)


def test_the_journal_survives_the_run_folder(tmp_path: Path):
    folder = tmp_path / "rollouts"
    folder.mkdir()
    written = Run.__new__(Run)
    written.folder = tmp_path
    scored, _ = run({})
    written.write_rollouts(4, rollout_rows(scored, 4))
    written.write_rollouts(4, rollout_rows(scored[:1], 4), "validation")
    assert written.journal(4) == timed_verdicts(rollout_rows(scored, 4))
    assert set(written.journal(4, "validation")) == {RolloutId(0, 0)}
    assert written.journal(5) == {}


# -- rounds of sampling ------------------------------------------------------------------------------------------


class Places:
    """Problems without end, named by their place; a prompt is the place."""

    def problem(self, split, index):
        return Problem(f"p{index}", (), gold=index)

    def size(self, split):
        return None


class Ids:
    def prompt_ids(self, problem):
        return np.array([problem.gold])

    def decode(self, ids):
        return " ".join(map(str, ids))


class Ends:
    """An engine whose rollouts say which problem they answer and which sample they are."""

    def __init__(self):
        self.requests, self.asked = [], []

    def submit(self, request):
        self.requests.append(request)
        self.asked.append(request.problem.gold)

    def finished(self):
        while self.requests:
            r = self.requests.pop()
            segments = (Segment("policy", np.array([r.problem.gold, r.id.sample]), np.zeros(2, np.float32)),)
            yield Rollout(r.id, r.problem, r.prompt_ids, segments, "stop", r.sampling, r.max_tokens)


class Every:
    """A pool by whose word problems of these places are solved by every other sample, and no other problem is."""

    def __init__(self, mixed):
        self.mixed, self.jobs = mixed, {}

    def submit(self, key, response, gold, reward):
        self.jobs[key] = Verdict(float(gold in self.mixed and key.sample % 2), "ok")

    def drain(self):
        done, self.jobs = self.jobs, {}
        return done


def collected(mixed, *, data=None, prompts=4, **selection):
    engine = Ends()
    data = data or DataSource({"": (Places(), 1.0)}, Ids(), RolloutSettings())
    data.begin(1)
    collector = Collector(engine, data, Every(mixed), seed=0)
    chosen, grading = SelectionSettings(**selection), Grading({"": Countdown()})
    collector.admit(1, RolloutSettings(prompts=prompts, group_size=2), grading=grading, selection=chosen, journal={})
    return collector.collect(1, lambda done, total: None), engine.asked, data


def places(groups):
    return [g.problem.gold for g in groups]


def test_without_dynamic_sampling_every_group_is_trained_on():
    found, asked, _ = collected({1})
    assert places(found.groups) == places(found.chosen) == [0, 1, 2, 3] and len(asked) == 8
    assert found.row == {"select/discarded_share": 0.0, "select/rounds": 1.0, "select/missing_prompts": 0.0}


def test_shrinking_trains_on_what_is_in_the_band():
    found, asked, _ = collected({1, 2}, dynamic="shrink")
    assert places(found.chosen) == [1, 2] and places(found.groups) == [0, 1, 2, 3] and len(asked) == 8
    assert found.row == {"select/discarded_share": 0.5, "select/rounds": 1.0, "select/missing_prompts": 2.0}


def test_refilling_draws_only_what_is_missing():
    """Of 0 to 3 two are kept; two more are drawn, of 4 and 5 one; then one, and one more."""
    found, asked, data = collected({1, 2, 5, 7}, dynamic="refill")
    assert places(found.chosen) == [1, 2, 5, 7]
    assert sorted(set(asked)) == list(range(8)) and len(asked) == 16
    assert found.row == {"select/discarded_share": 0.5, "select/rounds": 4.0, "select/missing_prompts": 0.0}
    assert len(found.scored) == 16 and data.cursors == {"": 8}


def test_refilling_ends_after_its_rounds_and_goes_on_with_what_there_is():
    found, asked, _ = collected({1}, dynamic="refill", max_rounds=3)
    assert places(found.chosen) == [1] and len(asked) == 2 * (4 + 3 + 3)
    assert found.row["select/missing_prompts"] == 3.0 and found.row["select/rounds"] == 3.0
    nothing, _, _ = collected(set(), dynamic="refill", max_rounds=2)
    assert nothing.chosen == [] and nothing.row["select/discarded_share"] == 1.0


def test_refilling_without_constant_groups_is_the_plain_step():
    plain, _, _ = collected({0, 1, 2, 3})
    refilled, _, _ = collected({0, 1, 2, 3}, dynamic="refill")
    assert [g.rewards for g in plain.chosen] == [g.rewards for g in refilled.chosen]
    assert [r.id for r, _ in plain.scored] == [r.id for r, _ in refilled.scored] and plain.row == refilled.row


def test_a_surplus_is_carried_over_or_discarded():
    found, asked, data = collected(set(range(100)), dynamic="refill", oversample=1.5)
    assert places(found.chosen) == [0, 1, 2, 3] and len(asked) == 12
    assert found.row["select/discarded_share"] == pytest.approx(1 / 3)
    again, _, _ = collected(set(range(100)), data=data, dynamic="refill")
    assert places(again.chosen) == [4, 5, 6, 7]  # the surplus first, under new numbers
    assert [r.id.group for r, _ in again.scored[::2]] == [6, 7, 8, 9]
    _, _, wasteful = collected(set(range(100)), dynamic="refill", oversample=1.5, surplus="discard")
    again, _, _ = collected(set(range(100)), data=wasteful, dynamic="refill")
    assert places(again.chosen) == [6, 7, 8, 9]


def test_what_is_dropped_shows_in_the_lengths():
    """Two steps are asked for; the second is dropped after its rollouts came in, so that training never has them."""
    engine, data = Ends(), DataSource({"": (Places(), 1.0)}, Ids(), RolloutSettings())
    collector = Collector(engine, data, Every({1}), seed=0)
    for step in (1, 2):
        data.begin(step)
        asked = {"grading": Grading({"": Countdown()}), "selection": SelectionSettings(), "journal": {}}
        collector.admit(step, RolloutSettings(prompts=2, group_size=2), **asked)
    collector.collect(1, lambda done, total: None)
    assert collector.sampled == collector.collected == {2: 4}
    collector.drop()
    assert collector.sampled.total() == 8 and collector.collected.total() == 4
    assert [group for group, _, _ in data.draw(3)] == [2, 3, 4]


# -- what the verifier and the parts see ---------------------------------------------------------------------------


class Seen:
    """A pool that keeps what it was asked; the part `bad` fails on sample 1."""

    def __init__(self):
        self.texts = {}

    def submit(self, key, response, gold, reward):
        self.texts[key] = response

    def drain(self):
        return {
            k: Verdict(None, "timeout", None, {"why": "late"}) if k == ((0, 1), "bad") else Verdict(0.5, "ok") for k in self.texts
        }


def graded(parts=(), **settings):
    pool, engine = Seen(), Scripted()
    requests = [Request(RolloutId(0, s), PROBLEM, np.array([7]), 2, Sampling(), 0) for s in range(3)]
    grading = Grading({"": Countdown()}, Parts(parts))
    scored = sample_and_score(
        engine,
        pool,
        Words(),
        requests,
        grading=grading,
        settings=RolloutSettings(**settings),
        journal={},
        progress=lambda *_: None,
    )
    return pool, scored


def test_the_verifier_sees_the_first_tokens_alone_and_a_part_all_of_them():
    pool, scored = graded([{"kind": "actions"}], graded_tokens=1, truncated="as_graded")
    assert {key: pool.texts[key] for key in [(0, 0), (0, 1), (0, 2)]} == {(0, 0): "0", (0, 1): "0", (0, 2): "0"}
    assert pool.texts[((0, 1), "actions")] == "0 1"
    assert [v.detail["parts"] for _, v in scored] == [{"actions": 0.5}] * 3


def test_parts_are_graded_where_the_verifier_is_not_asked():
    pool, scored = graded([{"kind": "actions"}])
    assert (0, 2) not in pool.texts and ((0, 2), "actions") in pool.texts
    assert scored[2][1].status == "truncated" and scored[2][1].detail["parts"] == {"actions": 0.5}


def test_a_part_that_fails_leaves_the_rollout_without_a_score():
    _, scored = graded([{"kind": "actions", "name": "bad"}])
    assert [v.score for _, v in scored] == [0.5, None, 0.0]
    assert scored[1][1].status == "timeout" and scored[1][1].detail["why"] == "part bad: late"
    assert set(timed_verdicts(rollout_rows(scored, 1))) == {RolloutId(0, 1)}
