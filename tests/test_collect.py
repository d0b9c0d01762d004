"""What happens between the engine and the groups: order, missing scores, and verdicts taken from the journal."""

from pathlib import Path

import numpy as np

from longthink.collect import Grading, rollout_rows, sample_and_score, timed_verdicts
from longthink.rewards.countdown import Countdown
from longthink.run import Run
from longthink.tables import RolloutSettings
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
