"""The data source: mixtures by weight, problems given back, prompts dropped or cut, and its state."""

from collections import Counter

import numpy as np
import pytest
from support import scored_group

from longthink.data import DataSource, prompt_ids
from longthink.errors import RecipeError, TaskError
from longthink.pools import Pools
from longthink.recipe import parse_recipe
from longthink.tables import PoolSettings, RolloutSettings
from longthink.tasks.base import Task
from longthink.types import Problem


class Numbers(Task):
    """Problems named by their number; prompt n has n % 7 + 1 tokens."""

    count: int | None = 10
    letter: str = "n"

    def problem(self, split, index):
        place = index if self.count is None else index % self.count
        return Problem(f"{self.letter}{place}", (), gold=place)

    def size(self, split):
        return self.count


class Lengths:
    def prompt_ids(self, problem):
        return np.arange(problem.gold % 7 + 1)


WIDE = RolloutSettings()


def source(*weights, settings=WIDE, pools=None, count=10):
    tasks = {chr(97 + i): (Numbers(letter=chr(97 + i), count=count), w) for i, w in enumerate(weights)}
    return DataSource(tasks, Lengths(), settings, pools)


def names(drawn):
    return [problem.id for _, problem, _ in drawn]


def test_a_mixture_has_its_shares_in_every_stretch():
    data = source(0.5, 0.3, 0.2)
    drawn = [problem.domain for _, problem, _ in data.draw(200)]
    for start in range(0, 200, 10):
        assert Counter(drawn[start : start + 10]) == {"a": 5, "b": 3, "c": 2}
    assert names(source(0.5, 0.3, 0.2).draw(200)) == names(source(0.5, 0.3, 0.2).draw(200))


def test_a_domain_of_weight_0_is_not_drawn():
    assert {problem.domain for _, problem, _ in source(1.0, 0.0).draw(50)} == {"a"}


def test_a_domain_that_is_switched_off_is_not_drawn_once_more():
    data = source(0.4, 0.3, 0.3)
    assert [problem.domain for _, problem, _ in data.draw(2)] == ["a", "b"]  # the third is now 0.6 of a problem behind
    data.begin(2, {"a": 0.5, "b": 0.5, "c": 0.0})
    assert {problem.domain for _, problem, _ in data.draw(20)} == {"a", "b"}


def test_every_domain_walks_its_own_problems_in_order():
    drawn = names(source(0.5, 0.5).draw(8))
    assert [n for n in drawn if n[0] == "a"] == ["a0", "a1", "a2", "a3"]
    assert [n for n in drawn if n[0] == "b"] == ["b0", "b1", "b2", "b3"]


def test_problems_given_back_come_first_under_new_numbers():
    data = source(1.0)
    data.begin(1)
    first = data.draw(4)
    data.give_back([first[1][0], first[3][0]])
    again = data.draw(3)
    assert names(again) == ["a1", "a3", "a4"]
    assert [group for group, _, _ in again] == [4, 5, 6]


def test_prompts_too_long_are_dropped_or_keep_their_end_and_are_counted():
    drop = source(1.0, settings=RolloutSettings(max_prompt_tokens=5, long_prompts="drop"))
    assert names(drop.draw(8)) == ["a0", "a1", "a2", "a3", "a4", "a7", "a8", "a9"]
    assert drop.metrics() == {"data/dropped_prompts": 2, "data/cut_prompts": 0}
    cut = source(1.0, settings=RolloutSettings(max_prompt_tokens=5, long_prompts="cut"))
    prompts = [ids.tolist() for _, _, ids in cut.draw(8)]
    assert prompts[5] == [1, 2, 3, 4, 5] and prompts[6] == [2, 3, 4, 5, 6] and prompts[4] == [0, 1, 2, 3, 4]
    assert cut.metrics() == {"data/dropped_prompts": 0, "data/cut_prompts": 2}
    with pytest.raises(TaskError, match=r"its prompt has 6 tokens.*long_prompts"):
        prompt_ids(Lengths(), Problem("p", (), 5), RolloutSettings(max_prompt_tokens=5))


def test_only_long_prompts_end_in_one_error():
    with pytest.raises(TaskError, match="every prompt is longer"):
        DataSource({"": (Numbers(count=6), 1.0)}, Six(), RolloutSettings(max_prompt_tokens=2, long_prompts="drop")).draw(1)


class Six:
    def prompt_ids(self, problem):
        return np.arange(6)


def rested(settings, outcomes, count=4):
    """A source of `count` problems after step 1 went as `outcomes` says for the first ones."""
    data = source(1.0, pools=Pools(settings, 0), count=count)
    data.begin(1)
    drawn = data.draw(len(outcomes))
    groups = []
    for (_, problem, _), scores in zip(drawn, outcomes, strict=True):
        group = scored_group(*((s, 5) for s in scores))
        groups.append(type(group)(problem, group.rollouts, group.verdicts, group.rewards))
    data.record(groups)
    data.begin(2)
    return data


def test_resting_problems_are_passed_over():
    data = rested(PoolSettings(retire_right=1, retire_wrong=1, rest_steps=2), [(1, 1), (1, 0), (0, 0), (0, 1)])
    assert names(data.draw(4)) == ["a1", "a3", "a1", "a3"]
    data.begin(4)
    assert sorted(names(data.draw(4))) == ["a0", "a1", "a2", "a3"]


def test_when_every_problem_rests_all_return():
    data = rested(PoolSettings(retire_right=1), [(1, 1)] * 4)
    assert len(names(data.draw(4))) == 4


def test_pools_without_problems_to_draw_take_any():
    data = rested(PoolSettings(easy=0.0), [(1, 1)] * 4)
    assert len(names(data.draw(4))) == 4


def test_rests_outlast_many_skips():
    """Of 300 problems 100 rest and 200 are seldom taken: drawing 64 of those passes by more than a round of the data."""
    data = source(1.0, pools=Pools(PoolSettings(retire_right=1, hard=0.05), 0), count=300)
    data.begin(1)
    drawn = data.draw(300)
    verdicts = [(1.0, 1.0) if i < 100 else (0.0, 0.0) for i in range(300)]
    made = [scored_group(*((s, 5) for s in scores)) for scores in verdicts]
    data.record([type(g)(p, g.rollouts, g.verdicts, g.rewards) for g, (_, p, _) in zip(made, drawn, strict=True)])
    data.begin(2)
    assert not {f"a{i}" for i in range(100)} & set(names(data.draw(64)))


def test_domains_with_equal_ids_do_not_share_a_rest():
    tasks = {name: (Numbers(letter="n", count=4), 1.0) for name in ("math", "code")}
    data = DataSource(tasks, Lengths(), WIDE, Pools(PoolSettings(retire_right=1), 0))
    data.begin(1)
    drawn = data.draw(8)
    made = [scored_group((1.0, 5), (1.0, 5)) if p.domain == "math" else scored_group((1.0, 5), (0.0, 5)) for _, p, _ in drawn]
    data.record([type(g)(p, g.rollouts, g.verdicts, g.rewards) for g, (_, p, _) in zip(made, drawn, strict=True)])
    data.begin(2)
    assert {problem.domain for _, problem, _ in data.draw(8)} == {"code"}


def test_a_branch_forgets_domains_it_does_not_have(tmp_path):
    parent = source(0.5, 0.5)
    parent.begin(1)
    parent.give_back([group for group, _, _ in parent.draw(4)])
    parent.save(tmp_path)
    child = source(1.0)
    child.load(tmp_path, 0)
    assert {problem.domain for _, problem, _ in child.draw(6)} == {"a"}


def test_pools_need_problems_that_come_again():
    with pytest.raises(TaskError, match="pools need problems that come again"):
        source(1.0, pools=Pools(PoolSettings(), 0), count=None)


def test_a_saved_source_goes_on_where_it_was(tmp_path):
    def made():
        return source(0.6, 0.4, pools=Pools(PoolSettings(retire_right=1, rest_steps=1, middle=0.5), 0))

    one = made()
    one.begin(1)
    drawn = one.draw(5)
    one.give_back([drawn[0][0]])
    groups = [scored_group((1.0, 5), (float(i % 2), 5)) for i in range(5)]
    one.record([type(g)(p, g.rollouts, g.verdicts, g.rewards) for g, (_, p, _) in zip(groups, drawn, strict=True)])
    one.settle([group for group, _, _ in drawn])
    one.save(tmp_path)
    other = made()
    other.load(tmp_path, 1)
    for step in (2, 3):
        one.begin(step)
        other.begin(step)
        assert [(g, p.id) for g, p, _ in one.draw(20)] == [(g, p.id) for g, p, _ in other.draw(20)]
        assert one.metrics() == other.metrics()


def test_what_was_not_settled_is_drawn_again_under_its_own_numbers(tmp_path):
    one = source(0.6, 0.4)
    one.begin(1)
    first, ahead = one.draw(4), one.draw(6)
    one.settle([group for group, _, _ in first])
    one.save(tmp_path)
    other = source(0.6, 0.4)
    other.load(tmp_path, 1)
    told = [(g, p.id) for g, p, _ in ahead]
    assert [(g, p.id) for g, p, _ in other.draw(2)] == told[:2]
    other.save(tmp_path)  # killed again, in the middle of it
    third = source(0.6, 0.4)
    third.load(tmp_path, 1)
    assert [(g, p.id) for g, p, _ in third.draw(6)] == told
    one.draw_again()
    assert [(g, p.id) for g, p, _ in one.draw(6)] == told
    following = [(g, p.id) for g, p, _ in one.draw(5)]
    assert [g for g, _ in following] == [10, 11, 12, 13, 14]
    assert following == [(g, p.id) for g, p, _ in third.draw(5)]


DOMAIN = {"task": {"kind": "countdown"}, "reward": {"kind": "countdown"}}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"domain": [DOMAIN], **DOMAIN}, "beside"),
        ({}, "task is missing"),
        ({"task": {"kind": "countdown"}}, "reward is missing"),
        ({"domain": [DOMAIN | {"name": "a"}, DOMAIN | {"name": "a"}]}, "a different one for each"),
        ({"domain": [DOMAIN | {"name": "a", "weight": 0.0}]}, "every weight is 0"),
        ({"domain": [DOMAIN | {"name": "a b"}]}, "domain.0.name"),
    ],
)
def test_contradictory_mixtures_are_refused(table, words):
    with pytest.raises(RecipeError, match=words):
        parse_recipe({"name": "r", "model": {"path": "m"}} | table, "r")
