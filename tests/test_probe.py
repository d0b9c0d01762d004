"""The second verifier: who is looked at, what is counted, and what a resumed run repeats."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_train import model, recipe, rows_of  # noqa: F401 (model is a fixture)

from longthink.collect import rollout_rows, timed_verdicts
from longthink.errors import RecipeError
from longthink.probe import probe
from longthink.rewards.math import Math
from longthink.storage import read_lines
from longthink.train import train
from longthink.types import Problem, Rollout, RolloutId, Sampling, Segment, Verdict


class Second:
    """A second verifier by script: the verdict of each text."""

    def __init__(self, verdicts: dict[str, Verdict]) -> None:
        self.verdicts, self.asked = verdicts, {}  # type: ignore[var-annotated]

    def submit(self, key: Any, response: str, gold: Any, reward: Any = None) -> None:
        self.asked[key] = response

    def take(self, key: Any) -> Verdict:
        return self.verdicts[self.asked[key]]


def scored(*rows: tuple[str, Verdict]) -> list[tuple[Rollout, Verdict]]:
    problem = Problem("p", (), "1")
    segment = Segment("policy", np.array([1]), np.zeros(1, np.float32))
    return [
        (Rollout(RolloutId(0, k), problem, np.array([1]), (segment,), "stop", Sampling(), 4, text), verdict)
        for k, (text, verdict) in enumerate(rows)
    ]


ROWS = scored(
    ("a", Verdict(1.0, "ok")),
    ("b", Verdict(0.0, "ok")),
    ("c", Verdict(1.0, "ok")),
    ("d", Verdict(0.5, "ok")),
    ("e", Verdict(0.0, "truncated")),
    ("f", Verdict(None, "timeout")),
)
SECOND = {"a": Verdict(1.0, "ok"), "b": Verdict(1.0, "ok"), "c": Verdict(None, "timeout"), "d": Verdict(0.0, "ok")}


def run(share: float, journal: Any = None, step: int = 1) -> tuple[list[Any], dict[str, float], Second]:
    pool = Second(SECOND)
    found, row = probe(pool, ROWS, Math(), share, seed=0, step=step, journal=journal or {})  # type: ignore[arg-type]
    return found, row, pool


def test_disagreement_by_hand() -> None:
    found, row, pool = run(1.0)
    assert sorted(pool.asked.values()) == ["a", "b", "c", "d"]  # neither the truncated nor the unscored
    assert row == {"probe/count": 4.0, "probe/unscored_share": 0.25, "probe/disagreement_share": pytest.approx(1 / 3)}
    assert [v.detail.get("probe", {}).get("score") for _, v in found] == [1.0, 1.0, None, 0.0, None, None]
    assert [(r.id, v.score, v.status) for r, v in found] == [(r.id, v.score, v.status) for r, v in ROWS]


def test_a_share_is_drawn_by_step_and_at_least_one() -> None:
    drawn = [tuple(sorted(run(0.5, step=step)[2].asked.values())) for step in range(20)]
    assert (
        {len(names) for names in drawn} == {2}
        and len(set(drawn)) > 3
        and drawn[3] == tuple(sorted(run(0.5, step=3)[2].asked.values()))
    )
    assert run(0.01)[1]["probe/count"] == 1.0


def test_nothing_to_look_at() -> None:
    assert probe(Second({}), ROWS[4:], Math(), 1.0, seed=0, step=1, journal={})[1] == {"probe/count": 0.0}  # type: ignore[arg-type]


def test_a_second_verdict_that_ran_out_of_time_is_repeated_from_the_journal() -> None:
    found, row, _ = run(1.0)
    journal = timed_verdicts(rollout_rows(found, 1))
    assert RolloutId(0, 2) in journal and RolloutId(0, 0) not in journal
    pool = Second(SECOND | {"c": Verdict(1.0, "ok")})
    again, same = probe(pool, ROWS, Math(), 1.0, seed=0, step=1, journal=journal)  # type: ignore[arg-type]
    assert same == row and rollout_rows(again, 1) == rollout_rows(found, 1)


def test_a_run_probes_every_so_many_steps(model: Path, tmp_path: Path) -> None:  # noqa: F811
    second = {"kind": "countdown", "tags": "required"}
    train(recipe(model, probe={"every": 2, "share": 1.0, "reward": second}, rollout={"prompts": 2, "group_size": 2, "window": 12,
                 "truncated": "as_graded"}), tmp_path / "run")  # fmt: skip
    rows = rows_of(tmp_path / "run")
    assert [row.get("probe/count") for row in rows] == [None, None, 4.0]
    journal = read_lines(tmp_path / "run" / "rollouts" / "step_000002.jsonl")
    assert [row["verdict"]["detail"]["probe"]["status"] for row in journal] == ["no_answer"] * 4


def test_a_probe_without_a_verifier_is_refused(model: Path) -> None:  # noqa: F811
    with pytest.raises(RecipeError, match=r"probe\.every is set without probe\.reward"):
        recipe(model, probe={"every": 2})
