"""A second verifier looks at a share of the rollouts: where it disagrees, one of the two is wrong, or is being gamed."""

from collections.abc import Sequence
from dataclasses import replace

from longthink.collect import TIMED, Journal, Scored
from longthink.rewards.base import Reward
from longthink.rewards.pool import Grader
from longthink.rng import rng

__all__ = ["probe"]


def probe(
    pool: Grader, scored: Sequence[Scored], reward: Reward, share: float, *, seed: int, step: int, journal: Journal
) -> tuple[list[Scored], dict[str, float]]:
    """The rollouts with the second verdict in `detail["probe"]` of those drawn, and the metrics `probe/…`.

    Drawn, by (seed, step), are rollouts that were graded and have a score; at least one. Two verdicts disagree when one
    is a full score and the other is not. A second verdict that depended on time is taken from the journal on resume.
    """
    graded = [i for i, (_, v) in enumerate(scored) if v.score is not None and v.status != "truncated"]
    if not graded:
        return list(scored), {"probe/count": 0.0}
    chosen = rng(seed, "probe", step).choice(graded, max(1, round(share * len(graded))), replace=False)
    found = dict(enumerate(scored))
    second = {}
    for i in sorted(int(i) for i in chosen):
        rollout = scored[i][0]
        text, known = journal.get(rollout.id, ("", scored[i][1]))
        past = known.detail.get("probe", {})
        if text == rollout.text and past.get("status") in TIMED:
            second[i] = past
        else:
            pool.submit(("probe", i), rollout.text, rollout.problem.gold, reward)
    for i in sorted(int(i) for i in chosen):
        if i not in second:
            verdict = pool.take(("probe", i))
            second[i] = {"score": verdict.score, "status": verdict.status, "extracted": verdict.extracted}
        rollout, verdict = scored[i]
        found[i] = rollout, replace(verdict, detail={**verdict.detail, "probe": second[i]})
    right = {i: scored[i][1].score >= 1.0 for i in second}  # type: ignore[operator]
    differ = [right[i] != (s["score"] >= 1.0) for i, s in second.items() if s["score"] is not None]
    row = {"probe/count": float(len(second)), "probe/unscored_share": 1.0 - len(differ) / len(second)}
    return list(found.values()), row | ({"probe/disagreement_share": sum(differ) / len(differ)} if differ else {})
