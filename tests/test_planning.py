"""What a recipe will cost: the simulation against one that counts every pass, memory by hand, and what was published."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longthink.cli import main
from longthink.errors import RecipeError
from longthink.planning.hardware import Hardware, shape_of
from longthink.planning.memory import GIB, needs
from longthink.planning.plan import Lengths, plan, planned
from longthink.planning.simulate import Costs, Load, Sampler, simulate
from longthink.recipe import load_recipe

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
FREE = Costs(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def test_a_sampler_by_hand() -> None:
    """Prompt 3, responses of 2 and 4: two rows, then one; contexts 4+4, 5+5, 6, 7 at a tenth, rows at a half, a prefill of 3."""
    costs = Costs(1.0, 0.5, 0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0)
    (step,) = simulate([Load([2, 4], 2, 3)], costs, samplers=1, rows=8)
    assert step.rollout == pytest.approx(4 * 1.0 + (2 + 2 + 1 + 1) * 0.5 + (8 + 10 + 6 + 7) * 0.1 + 3 * 0.2)
    (one,) = simulate([Load([2, 4], 2, 3)], FREE, samplers=1, rows=1)
    assert one.rollout == 6.0
    (two,) = simulate([Load([2, 4], 1, 3)], FREE, samplers=2, rows=1)
    assert two.rollout == 4.0 and two.samplers_busy == 6.0


def test_the_learner_by_hand() -> None:
    costs = Costs(1.0, 0.0, 0.0, 0.0, logprob_s=0.1, update_s=0.2, square_s=0.01, step_s=5.0, sync_s=2.0)
    (step,) = simulate([Load([2, 4], 2, 3)], costs, samplers=1, rows=8)
    tokens, squares = 2 + 4 + 3 + 3, 5**2 + 7**2
    assert (step.logprobs, step.sync) == (pytest.approx(0.1 * tokens), 2.0)
    assert step.update == pytest.approx(0.2 * tokens + 0.01 * squares + 5.0)


def test_working_ahead_hides_what_is_shorter() -> None:
    costs = Costs(1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, step_s=10.0, sync_s=0.0)
    loads = [Load([6, 6], 2, 1)] * 4
    one_by_one = simulate(loads, costs, samplers=1, rows=2)
    ahead = simulate(loads, costs, samplers=1, rows=2, staleness=1)
    assert [t.rollout for t in one_by_one] == [6.0] * 4
    assert [t.rollout for t in ahead] == [6.0, 0.0, 0.0, 0.0]


def test_new_weights_stop_what_runs_and_contexts_are_computed_again() -> None:
    """The second step's rollout has 4 of 10 tokens when weights come: 3 s of them, then prompt and tokens so far at 0.5."""
    costs = Costs(1.0, 0.0, 0.0, prefill_s=0.5, logprob_s=0.0, update_s=0.0, square_s=0.0, step_s=4.0, sync_s=3.0)
    first, second = simulate([Load([1], 1, 2), Load([10], 1, 2)], costs, samplers=1, rows=1, staleness=1)
    assert first.rollout == 2.0  # a prefill of 2 and one pass
    # at 2.0 the second begins: prefill 1, then 3 passes until 6.0; weights until 9.0; 5 tokens again 2.5; 7 passes
    assert second.rollout == pytest.approx(9.0 + 2.5 + 7.0 - 9.0)


def counted(lengths: list[int], prompt: int, rows: int, costs: Costs) -> float:
    """The same, pass by pass."""
    waiting, running, now = [*lengths], [], 0.0
    while waiting or running:
        while waiting and len(running) < rows:
            running.append([prompt, waiting.pop(0)])
            now += costs.prefill_s * prompt
        for row in running:
            row[0] += 1
            row[1] -= 1
        now += costs.pass_s + costs.row_s * len(running) + costs.context_s * sum(context for context, _ in running)
        running = [row for row in running if row[1]]
    return now


@given(st.lists(st.integers(1, 30), min_size=1, max_size=12), st.integers(1, 5), st.integers(1, 6))
def test_closed_forms_are_what_counting_gives(lengths: list[int], prompt: int, rows: int) -> None:
    costs = Costs(0.3, 0.07, 0.011, 0.05, 0.0, 0.0, 0.0, 0.0, 0.0)
    (step,) = simulate([Load(lengths, 1, prompt)], costs, samplers=1, rows=rows)
    assert step.rollout == pytest.approx(counted(lengths, prompt, rows, costs))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.lists(st.floats(0.1, 9.0), max_size=6))
def test_stopping_at_any_moment_changes_nothing(lengths: list[int], moments: list[float]) -> None:
    costs = Costs(0.3, 0.07, 0.011, 0.05, 0.0, 0.0, 0.0, 0.0, 0.0)
    whole, cut = (Sampler(costs, 4) for _ in range(2))
    for sampler in (whole, cut):
        for tokens in lengths:
            sampler.submit(0, 2, tokens, True, 0.0)
    for moment in sorted(moments):
        cut.run(moment)
    assert cut.finish(0) == pytest.approx(whole.finish(0)) and not cut.running


def test_lengths_are_cut_at_the_window_and_come_from_runs(tmp_path: Path) -> None:
    drawn = Lengths.of("4000:0.5").draw(20_000, 8192, 1)
    assert np.median(drawn) == pytest.approx(4000, rel=0.03) and max(drawn) == 8192
    assert np.std(np.log([n for n in Lengths.of("4000:0.5").draw(20_000, 10**9, 1)])) == pytest.approx(0.5, rel=0.03)
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "step_000001.jsonl").write_text('{"response_ids": [1, 2, 3]}\n{"response_ids": [4]}\n')
    assert set(Lengths.of(str(tmp_path)).draw(50, 2, 0)) == {1, 2}
    for bad in ("fast", "0", "4000:"):
        with pytest.raises(RecipeError, match="expected a run folder, or the median"):
            Lengths.of(bad)


def test_hardware_by_its_name() -> None:
    found = Hardware.of("4x8x80")
    assert (found.name, found.machines, found.each, found.gpus, found.gib) == ("A100", 4, 8, 32, 80.0)
    assert Hardware.of("1xh200").gib == 141.0
    for bad in ("A100", "8xB7", "0xA100", "0x8xA100", ""):
        with pytest.raises(RecipeError, match="expected GPUs and their kind or memory"):
            Hardware.of(bad)


def test_memory_by_hand() -> None:
    recipe = load_recipe(RECIPES / "deepscaler_1.5b.toml", on="8x80")
    shape = shape_of(recipe.model.path)
    # 28 layers: attention 1536·(1536 + 256 + 256 + 1536) and three biases, MLP 3·1536·8960, two norms; embedding and head; a norm
    layer = 1536 * 3584 + 2048 + 3 * 1536 * 8960 + 2 * 1536
    assert shape.parameters == 28 * layer + 2 * 151936 * 1536 + 1536
    assert shape.kv_numbers == 2 * 28 * 2 * 128
    rank, sampler, rows = needs(recipe, shape)
    assert rank["weights, gradients, AdamW"] * GIB == pytest.approx(16 * shape.parameters / 8)
    assert rank["reference"] * GIB == pytest.approx(4 * shape.parameters / 8)
    assert rank["activations"] * GIB == pytest.approx(2 * 32768 * 1536 * (28 + 17))
    assert sampler["sampler weights"] * GIB == pytest.approx(2 * shape.parameters)
    context = recipe.rollout.max_prompt_tokens + 24576
    assert rows == 40 * GIB // (context * shape.kv_numbers * 2)
    alone = load_recipe(RECIPES / "deepscaler_1.5b.toml", on="1x24")
    assert "reference" not in needs(alone, shape)[0]


@pytest.mark.parametrize("profile", ["1x24", "1x80", "8x80", "4x8x80"])
@pytest.mark.parametrize("name", sorted(p.stem for p in RECIPES.glob("*_1.5b.toml")))
def test_a_profile_changes_where_a_recipe_computes_and_what_that_takes(name: str, profile: str) -> None:
    plain, made = (load_recipe(RECIPES / f"{name}.toml", on=on) for on in ("", profile))
    assert made.model.device == "cuda" and made.cluster != plain.cluster
    assert (made.task, made.reward, made.budget, made.shape) == (plain.task, plain.reward, plain.budget, plain.shape)
    assert made.rollout.model_copy(update={"staleness": 0}) == plain.rollout


PUBLISHED = [  # seconds a step; what is said of lengths is in benchmarks/scaling.py
    ("deepscaler_1.5b", "direct_24k", "2x8xA100", "7000:0.8", 1300.0),
]


@pytest.mark.parametrize(("recipe", "arm", "on", "lengths", "seconds"), PUBLISHED)
def test_a_plan_is_within_a_factor_of_two_of_what_was_published(
    recipe: str, arm: str, on: str, lengths: str, seconds: float
) -> None:
    made = load_recipe(RECIPES / f"{recipe}.toml", ["loss.old_logprobs=learner"], arm)
    (stage,) = plan(made, Hardware.of(on), Lengths.of(lengths))
    assert 0.5 < stage.step / seconds < 2.0


def test_the_command_says_what_it_costs_and_what_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = str(RECIPES / "deepscaler_1.5b.toml")
    assert main(["plan", recipe, "--on", "8xA100"]) == 0
    out = capsys.readouterr().out
    assert "1.78 B parameters" in out and "GPU hours, $" in out and out.count("\n") == 7
    assert main(["plan", recipe, "--on", "1x24"]) == 0
    assert "TOO LARGE by" in capsys.readouterr().out
    assert main(["plan", recipe, "--on", "8xB200"]) == 2
    assert main(["train", recipe, "--on", "2x2"]) == 2
    assert "expected a TOML file with a recipe's tables, or one of ours: 1x24, 1x80, 4x8x80, 8x80" in capsys.readouterr().err
    assert planned(load_recipe(recipe), "8xH100", "4000")[-1].endswith("days; validations are not in it")
    assert "no price is known" in planned(load_recipe(recipe), "8xH100", "4000")[-1]
