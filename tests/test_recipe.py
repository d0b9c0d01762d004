"""Recipes: what validates, what is refused and in which words."""

from pathlib import Path

import pytest

from longthink.errors import RecipeError
from longthink.recipe import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[1]

SMALL = """
name = "small"
model.path = "models/tiny"
task.kind = "countdown"
reward.kind = "countdown"
"""

STAGED = (
    SMALL
    + """
validation.every = 10

[[stage]]
rollout.window = 64
until = { kind = "plateau" }

[[stage]]
rollout.window = 192
learner.lr = 1e-4
"""
)


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def staged_file(tmp_path: Path) -> Path:
    path = tmp_path / "staged.toml"
    path.write_text(STAGED)
    return path


def refusal(path: Path, *overrides: str) -> str:
    """The message a recipe is refused with."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return str(caught.value)


# What validates


def test_small_recipe_takes_the_defaults(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    assert recipe.task == {"kind": "countdown"}
    assert (recipe.rollout.prompts, recipe.rollout.group_size, recipe.loss.clip_high) == (16, 16, 0.2)
    assert recipe.stage == ()


def test_stages_are_read_in_order_and_the_widest_window_is_known(staged_file: Path) -> None:
    recipe = load_recipe(staged_file)
    assert [(r.rollout.window, r.learner.lr) for r in recipe.staged] == [(64, 1e-6), (192, 1e-4)]
    assert recipe.stage[0].until == {"kind": "plateau"}
    assert recipe.last_window == 192
    assert load_recipe(staged_file, ["rollout.window=512"]).last_window == 192  # a window no stage is ever at
    assert load_recipe(staged_file, ["stage.1.rollout.window=512"]).last_window == 512


def test_a_resolved_copy_validates_to_the_same_recipe(staged_file: Path) -> None:
    recipe = load_recipe(staged_file)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_recipe_cannot_be_changed_afterwards(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file)
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 1  # type: ignore[misc]


def test_deepscaler_has_the_published_values() -> None:
    recipe = load_recipe(ROOT / "recipes" / "deepscaler_1.5b.toml")
    assert [(s.rollout.window, s.rollout.group_size) for s in recipe.staged] == [(8192, 8), (16384, 16), (24576, 16)]
    assert [s.max_steps for s in recipe.stage] == [1040, 480, 0] and [s.reset for s in recipe.stage] == [
        "nothing",
        "hard",
        "hard",
    ]
    r, loss, learner, validation = recipe.rollout, recipe.loss, recipe.learner, recipe.validation
    assert (r.prompts, r.group_size, r.temperature, r.top_p, r.top_k) == (128, 8, 0.6, 1.0, 0)
    assert (r.max_prompt_tokens, r.long_prompts, r.truncated) == (1024, "drop", "zero")
    assert (recipe.advantage.std, recipe.advantage.epsilon) == ("unbiased", 1e-6)
    assert (loss.kind, loss.aggregation, loss.clip_low, loss.clip_high) == ("grpo", "token_mean", 0.2, 0.2)
    assert (loss.kl, loss.entropy) == (0.001, 0.001)
    assert (learner.lr, learner.schedule, learner.warmup_updates, learner.betas) == (1e-6, "constant", 0, (0.9, 0.999))
    assert (learner.weight_decay, learner.grad_clip, learner.minibatch_prompts, learner.epochs) == (0.01, 1.0, 64, 1)
    assert (validation.every, validation.problems, validation.samples, validation.temperature) == (20, 30, 8, 0.6)
    assert validation.window == "training", "validated in the window in force"
    assert recipe.budget.max_steps == 1770
    assert recipe.reward == {"kind": "math", "grader": "deepscaler", "scope": "deepscaler", "think": "template"}
    assert recipe.task["prompt"] == "deepscaler"


def test_deepscaler_task_is_a_file_task() -> None:
    from longthink.part import load_part
    from longthink.tasks.base import Task
    from longthink.tasks.file import File

    task = load_part(Task, load_recipe(ROOT / "recipes" / "deepscaler_1.5b.toml").task)
    assert isinstance(task, File)
    assert task.train == "data/deepscaler.parquet" and task.shuffle


# The file itself


def test_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none.toml") == f"{tmp_path / 'none.toml'}: no such recipe"


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes(b'name = "caf\xe9"')
    assert "cannot be read" in refusal(path)


def test_text_that_is_not_toml(tmp_path: Path) -> None:
    path = tmp_path / "broken.toml"
    path.write_text("name = \n")
    message = refusal(path)
    assert message.startswith(f"{path}: not TOML") and "line 1" in message


# Keys


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rollout.widnow=64", "unknown key rollout.widnow; did you mean window?"),
        ("lernr.lr=1e-6", "unknown key lernr; did you mean learner?"),
        ("loss.clip_hi=0.28", "unknown key loss.clip_hi; did you mean clip_high?"),
        ("advantage.zzzz=1", "unknown key advantage.zzzz; expected one of baseline, epsilon, std, whiten"),
    ],
)
def test_unknown_key_names_the_nearest(recipe_file: Path, override: str, words: str) -> None:
    assert refusal(recipe_file, override) == f"{recipe_file}: {words}"


def test_unknown_key_of_a_stage(staged_file: Path) -> None:
    assert "stage.0: unknown key rollout.widow; did you mean window?" in refusal(staged_file, "stage.0.rollout.widow=3")
    assert "unknown key stage.0.rolout; did you mean rollout?" in refusal(staged_file, "stage.0.rolout.window=3")


@pytest.mark.parametrize("key", ["name", "model", "task", "reward"])
def test_missing_key(tmp_path: Path, key: str) -> None:
    path = tmp_path / "lacking.toml"
    path.write_text("\n".join(line for line in SMALL.splitlines() if not line.startswith(key)))
    assert refusal(path).partition(";")[0] == f"{path}: {key} is missing"


def test_every_error_has_its_line(recipe_file: Path) -> None:
    message = refusal(recipe_file, "rollout.window=0", "learner.lr=-1", "sed=1")
    assert [line.split(":")[1].split()[0] for line in message.splitlines()] == ["rollout.window", "learner.lr", "unknown"]


# --set


def test_set_reads_toml_values(recipe_file: Path) -> None:
    recipe = load_recipe(
        recipe_file,
        [
            "seed=7",
            "learner.lr=3e-4",
            "learner.betas=[0.8, 0.95]",
            'aliases=["verl", "trl"]',
            "tensorboard=true",
            'loss.aggregation="seq_mean_token_mean"',
            'task={kind = "countdown", count = 4}',
        ],
    )
    assert (recipe.seed, recipe.learner.lr, recipe.learner.betas) == (7, 3e-4, (0.8, 0.95))
    assert (recipe.aliases, recipe.tensorboard) == (("verl", "trl"), True)
    assert recipe.loss.aggregation == "seq_mean_token_mean"
    assert recipe.task == {"kind": "countdown", "count": 4}


def test_set_takes_a_bare_word_as_text(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ["rollout.long_prompts=drop", "model.path=models/other-1.5B"])
    assert (recipe.rollout.long_prompts, recipe.model.path) == ("drop", "models/other-1.5B")


def test_set_keeps_an_equals_sign_in_the_value(recipe_file: Path) -> None:
    assert load_recipe(recipe_file, ["name=a=b"]).name == "a=b"


def test_set_opens_a_table_that_is_not_there(recipe_file: Path) -> None:
    assert load_recipe(recipe_file, ["validation.every=5"]).validation.every == 5


def test_set_reaches_into_a_stage(staged_file: Path) -> None:
    recipe = load_recipe(staged_file, ["stage.0.rollout.window=96", "stage.1.until={kind='steps'}"])
    assert recipe.staged[0].rollout.window == 96
    assert recipe.stage[1].until == {"kind": "steps"}


def test_set_replaces_all_stages(staged_file: Path) -> None:
    assert load_recipe(staged_file, ["stage=[]"]).stage == ()


def test_the_last_of_two_settings_counts(recipe_file: Path) -> None:
    assert load_recipe(recipe_file, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("override", ["rollout.window", "=3", ""])
def test_set_without_key_or_value(recipe_file: Path, override: str) -> None:
    assert refusal(recipe_file, override).startswith(f"--set {override}: expected key=value")


@pytest.mark.parametrize("override", ["stage.7.max_steps=3", "stage.first.max_steps=3", "name.first=3"])
def test_set_of_a_place_that_is_not_there(staged_file: Path, override: str) -> None:
    assert refusal(staged_file, override) == f"--set {override}: there is no {override.split('=')[0]} in the recipe"


# Types and ranges


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rollout.window=wide", "rollout.window: Input should be a valid integer"),
        ("rollout.window=1.5", "rollout.window: Input should be a valid integer"),
        ("rollout.window=[1]", "rollout.window: Input should be a valid integer"),
        ("learner.lr=fast", "learner.lr: Input should be a valid number"),
        ("learner.betas=[0.9]", "learner.betas.1 is missing"),
        ("learner.betas=0.9", "learner.betas: Input should be a valid"),
        ("tensorboard=maybe", "tensorboard: Input should be a valid boolean"),
        ("name=3", "name: Input should be a valid string"),
        ("loss=3", "loss: Input should be an object"),
        ("task=countdown", "task: Input should be"),
        ("loss.kind=ppo", "loss.kind: Input should be 'grpo' or 'nll', got 'ppo'"),
        ("aliases=[1]", "aliases.0: Input should be 'verl' or 'trl', got 1"),
        ("name=''", "name: String should have at least 1 character"),
        ("seed=-1", "seed: Input should be greater than or equal to 0, got -1"),
        ("rollout.prompts=0", "rollout.prompts: Input should be greater than or equal to 1, got 0"),
        ("rollout.top_p=0", "rollout.top_p: Input should be greater than 0, got 0"),
        ("rollout.top_p=1.1", "rollout.top_p: Input should be less than or equal to 1, got 1.1"),
        ("loss.clip_low=1", "loss.clip_low: Input should be less than 1, got 1"),
        ("learner.lr=0", "learner.lr: Input should be greater than 0, got 0"),
        ("workers=0", "workers: Input should be greater than or equal to 1, got 0"),
    ],
)
def test_wrong_type_or_range(recipe_file: Path, override: str, words: str) -> None:
    message = refusal(recipe_file, override)
    assert message.startswith(f"{recipe_file}: {words}")
    assert "\n" not in message


# Fields that contradict each other


def test_a_group_of_one_has_no_advantage(recipe_file: Path) -> None:
    words = "rollout.group_size is 1: a group of one has no advantage; expected at least 2"
    assert refusal(recipe_file, "rollout.group_size=1") == f"{recipe_file}: {words}"
    assert load_recipe(recipe_file, ["rollout.group_size=1", "loss.kind=nll"]).rollout.group_size == 1


def test_a_group_of_one_in_a_stage(staged_file: Path) -> None:
    assert "a group of one has no advantage" in refusal(staged_file, "stage.1.rollout.group_size=1")
    assert load_recipe(staged_file, ["stage.1.rollout.group_size=2"]).staged[1].rollout.group_size == 2


@pytest.mark.parametrize("override", ["rollout.top_p=0.95", "rollout.top_k=20"])
def test_restricted_sampling_biases_the_gradient(recipe_file: Path, override: str) -> None:
    message = refusal(recipe_file, override)
    assert "rollout.top_p / top_k restrict sampling" in message and "set top_p = 1 and top_k = 0" in message
    load_recipe(recipe_file, [override, "loss.kind=nll"])


def test_greedy_rollouts_are_all_equal(recipe_file: Path) -> None:
    message = refusal(recipe_file, "rollout.temperature=0")
    assert "rollout.temperature is 0: greedy rollouts of a group are all equal; expected above 0" in message
    load_recipe(recipe_file, ["rollout.temperature=0", "loss.kind=nll"])


@pytest.mark.parametrize("prompts", [5, 32])
def test_minibatch_must_divide_the_prompts(recipe_file: Path, prompts: int) -> None:
    words = f"learner.minibatch_prompts is {prompts}, which does not divide rollout.prompts = 16"
    assert refusal(recipe_file, f"learner.minibatch_prompts={prompts}") == f"{recipe_file}: {words}"
    assert load_recipe(recipe_file, ["learner.minibatch_prompts=8"]).learner.minibatch_prompts == 8


def test_cosine_needs_its_length(recipe_file: Path) -> None:
    words = "learner.schedule is cosine: set learner.total_updates above learner.warmup_updates"
    assert refusal(recipe_file, "learner.schedule=cosine") == f"{recipe_file}: {words}"
    ten = ["learner.schedule=cosine", "learner.total_updates=10"]
    assert words in refusal(recipe_file, *ten, "learner.warmup_updates=10")
    assert load_recipe(recipe_file, [*ten, "learner.warmup_updates=9"]).learner.total_updates == 10


def test_the_last_stage_writes_its_window_out(staged_file: Path) -> None:
    words = "stage: the last stage names no window although an earlier one does; write it out"
    assert refusal(staged_file, "stage.1={learner={lr = 1e-4}}") == f"{staged_file}: {words}"
    load_recipe(staged_file, ["stage=[{learner={lr = 1e-4}, max_steps = 5}, {learner={lr = 1e-5}}]"])
    words = "stage: one that is not the last has neither until nor max_steps and would never end"
    assert refusal(staged_file, "stage=[{learner={lr = 1e-4}}, {learner={lr = 1e-5}}]") == f"{staged_file}: {words}"


def test_a_trigger_needs_validation(staged_file: Path) -> None:
    words = "stage.until needs validation: set validation.every above 0"
    assert refusal(staged_file, "validation.every=0") == f"{staged_file}: {words}"


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["loss.dual_clip=0.5"], "loss.dual_clip is 0.5, expected above 1"),
        (['loss.aggregation="constant"'], "loss.normalizer"),
        (["loss.normalizer=7"], "loss.normalizer"),
        (['loss.kl_schedule="cosine"', "loss.kl=0.1"], "loss.kl_horizon"),
        (["loss.kl_horizon=5", "loss.kl=0.1"], "loss.kl_schedule = 'cosine'"),
        (['loss.kl_schedule="cosine"', "loss.kl_horizon=5"], "loss.kl above 0"),
        (['reward_servers=["nowhere"]'], "reward_servers names 'nowhere', expected host:port"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(recipe_file: Path, overrides: list[str], why: str) -> None:
    assert why in refusal(recipe_file, *overrides)
