"""What a recipe may not say: one sentence for the first contradiction found, before anything starts."""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from longthink.tables import MOVING

if TYPE_CHECKING:
    from longthink.recipe import Recipe
    from longthink.staging import Rule

__all__ = ["changes_of", "contradiction"]


def contradiction(recipe: "Recipe") -> str | None:
    """The first contradiction, with what was expected instead; None for a recipe that can run."""
    for why in _rules(recipe):
        return why
    checks = (_stages,) if recipe.stage else (_parts, _windows, _sampling, _loss, _reference, _pools, _selection, _learner)
    for check in checks:
        for why in check(recipe):
            return why
    return None


def _parts(recipe: "Recipe") -> Iterator[str]:
    if recipe.budget.max_cost and not recipe.budget.price:
        yield "budget.max_cost needs budget.price, that of an hour of one process"
    if recipe.domain and (recipe.task or recipe.reward):
        yield "task and reward are there beside [[domain]]; expected one or the other"
    for name in ("task", "reward") if not recipe.domain else ():
        if not getattr(recipe, name):
            yield f"{name} is missing" + ("; a recipe of fine-tuning has budget.max_epochs" if name == "reward" else "")
    domains = [d.name for d in recipe.domain]
    if len(domains) > 1 and (len(set(domains)) < len(domains) or "" in domains):
        yield f"domain: the names are {', '.join(map(repr, domains))}; expected a different one for each"
    if recipe.domain and not any(d.weight for d in recipe.domain):
        yield "domain: every weight is 0, so no problem could be drawn"
    sets = [s.reward for s in recipe.validation.sets]
    tables = [*(d.reward for d in recipe.domains), *sets, recipe.probe.reward, *recipe.shape]
    yield from _sets(recipe)
    if recipe.reward_servers and any(t.get("kind") == "file" for t in tables):
        yield "reward_servers do not run reward files of yours (kind = 'file'): grade here, without servers"
    for server in recipe.reward_servers:
        if not re.fullmatch(r"(?:http://)?[^\s:/]+:\d{1,5}/?", server):
            yield f"reward_servers names {server!r}, expected host:port"
    if recipe.probe.every and not recipe.probe.reward:
        yield "probe.every is set without probe.reward; expected the table of a second verifier"
    names = [str(t.get("name", t.get("kind"))) for t in recipe.shape]
    if twice := sorted({n for n in names if names.count(n) > 1}):
        yield f"shape: {twice[0]} is there twice; remove one, or give them different names (name = …)"
    weights = [t.get("weight", 1.0) for t in recipe.shape if not t.get("gate", False)]
    if recipe.shape and all(isinstance(w, int | float) and w == 0 for w in weights):
        yield "shape: no part adds to the reward (every weight is 0, or all are gates), so every reward would be 0"


def _sets(recipe: "Recipe") -> Iterator[str]:
    names = [s.name for s in recipe.validation.sets]
    if names and (len(set(names)) < len(names) or "" in names):
        yield f"validation.sets: the names are {', '.join(map(repr, names))}; expected a different one for each"
    if names and not any(s.weight for s in recipe.validation.sets):
        yield "validation.sets: every weight is 0, so no blend could be judged"
    for made in recipe.validation.sets:
        if bool(made.task) != bool(made.reward):
            yield f"validation.sets: {made.name} has {'a task without a reward' if made.task else 'a reward without a task'}"
    if taken := sorted({d.name for d in recipe.domain} & set(names)):
        yield f"validation.sets: {taken[0]} is a domain's name too; choose another"


def _stages(recipe: "Recipe") -> Iterator[str]:
    """Of the list of stages; what is in force in each is checked as a recipe of its own."""
    stages = recipe.stage
    if any(not s.until and not s.max_steps for s in stages[:-1]):
        yield "stage: one that is not the last has neither until nor max_steps and would never end"
    if both := [i for i, s in enumerate(stages) if len(MOVING & s.rollout.keys()) > 1]:
        yield f"stage.{both[0]} has {' and '.join(sorted(MOVING & stages[both[0]].rollout.keys()))}; expected one of them"
    named = [bool(MOVING & s.rollout.keys()) for s in stages]
    if any(named) and not named[-1]:
        yield "stage: the last stage names no window although an earlier one does; write it out"
    try:
        staged = recipe.staged
    except ValueError as why:
        yield str(why)
        return
    windows = [0 if made.rollout.cycle or made.rollout.signal else made.rollout.window for made in staged]
    if recipe.window == "auto" and (min(windows) == 0 or any(b <= a for a, b in pairwise(windows))):
        yield f"window = 'auto' chooses among the stages' windows, which are {windows}; expected fixed ones that grow"
    if any(s.until and not made.validation.every for s, made in zip(stages, staged, strict=True)):
        yield "stage.until needs validation: set validation.every above 0"
    if any(s.reset == "reference" and not made.loss.kl for s, made in zip(stages, staged, strict=True)):
        yield "stage.reset = 'reference' without a KL, which alone needs a reference: set loss.kl above 0, or reset = 'hard'"


def _rules(recipe: "Recipe") -> Iterator[str]:
    if recipe.lora and (any(r.do == "reset" for r in recipe.rule) or any(s.reset != "nothing" for s in recipe.stage)):
        yield "a reset makes the policy its own reference; with [lora] that is the base model: expected no resets, or no [lora]"
    for index, rule in enumerate(recipe.rule):
        if rule.do == "next" and len(recipe.stage) < 2:
            yield f"rule.{index} goes to the next stage, and there is none: add [[stage]] tables"
        if rule.do == "rollback" and not any(s.validation.every for s in recipe.staged):
            yield f"rule.{index} rolls back to the best validated checkpoint: set validation.every above 0"
        if rule.do == "set" and not rule.set and not rule.scale:
            yield f"rule.{index} sets nothing: give set or scale"
        for made in recipe.staged:
            try:
                made.changed(changes_of(made, rule))
            except ValueError as why:
                yield f"rule.{index}: {why}"
                break


def changes_of(recipe: "Recipe", rule: "Rule") -> dict[str, dict[str, Any]]:
    """The keys a rule changes in a recipe that is in force, with `scale` worked out. Raises: ValueError for what is no number."""
    changes = {table: dict(keys) for table, keys in rule.set.items()}
    for table, factors in rule.scale.items():
        for key, factor in factors.items():
            if (table, key) == ("rollout", "window") and (recipe.rollout.cycle or recipe.rollout.signal):
                moved = "cycle" if recipe.rollout.cycle else "signal"
                raise ValueError(f"scale.rollout.window: a {moved} is in force, whose window is not the recipe's")
            value = getattr(getattr(recipe, table, None), key, None)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"scale.{table}.{key} is no number of the recipe")
            scaled = value * factor
            changes.setdefault(table, {})[key] = round(scaled) if isinstance(value, int) else scaled
    return changes


def _windows(recipe: "Recipe") -> Iterator[str]:
    r = recipe.rollout
    smallest = r.narrowest
    if recipe.window == "auto":
        yield "window = 'auto' chooses the stage to begin with: add [[stage]] tables with growing windows"
    if r.cycle and r.signal:
        yield "rollout has a cycle and a signal; expected one of them"
    v = recipe.validation
    if (r.cycle or r.signal) and v.every and any(made.window == "training" for made in v.blend if made.weight):
        yield "validation would follow a window that moves, so that no two could be compared: set validation.window"
    if r.signal and r.signal.low >= r.signal.high:
        yield f"rollout.signal goes from low = {r.signal.low} to high = {r.signal.high}; expected low below high"
    if r.graded_tokens >= smallest:
        yield f"rollout.graded_tokens is {r.graded_tokens}, no smaller than the window, {smallest}: it does nothing"
    for table in recipe.shape:
        buffer = table.get("buffer", 0)
        if table.get("kind") == "overlong" and isinstance(buffer, int) and buffer >= smallest:
            yield f"shape: overlong's buffer of {buffer} tokens is no smaller than the smallest window, {smallest}"
    if r.cycle and r.cycle.low >= r.cycle.high:
        yield f"rollout.cycle goes from low = {r.cycle.low} to high = {r.cycle.high}; expected low below high"
    if r.cycle and r.cycle.first == "expansion" and r.cycle.shape != "stair":
        yield f"rollout.cycle.first = 'expansion' is for a stair; the shape {r.cycle.shape} begins at its widest"


def _sampling(recipe: "Recipe") -> Iterator[str]:
    r = recipe.rollout
    if recipe.engine.kind == "vllm" and not recipe.cluster.samplers:
        yield "engine.kind is vllm, which samples in a process of its own; expected cluster.samplers >= 1"
    c, servers = recipe.cluster, recipe.engine.servers
    if servers and recipe.engine.kind != "vllm":
        yield f"engine.servers are vLLM's, engine.kind is {recipe.engine.kind}; expected vllm"
    if servers and len(servers) != c.samplers:
        yield f"engine.servers are {len(servers)}, cluster.samplers is {c.samplers}; expected a sampler for each server"
    if len({s.rstrip("/") for s in servers}) < len(servers):
        yield "engine.servers has an address twice; expected a server for each sampler"
    if wrong := [s for s in servers if not s.startswith(("http://", "https://"))]:
        yield f"engine.servers has {wrong[0]!r}; expected http://host:port"
    if servers and recipe.engine.transfer != "nccl" and not recipe.engine.transfer.startswith("/"):
        yield f"engine.transfer is {recipe.engine.transfer!r}; expected nccl, or a folder from the root on"
    if servers and recipe.engine.transfer == "nccl" and (recipe.model.device == "cpu" or c.place == "ray"):
        yield "engine.transfer is nccl, which needs GPUs and samplers beside the learner; expected a folder that all see"
    if r.staleness and not c.samplers:
        yield f"rollout.staleness is {r.staleness}, and the ranks that train also sample; expected cluster.samplers >= 1"
    if r.staleness and r.signal:
        yield "rollout.signal reads its choices off finished steps, which staleness keeps behind; expected one of them"
    if c.place == "ray" and not c.samplers:
        yield "cluster.place is ray, which places ranks and samplers; expected cluster.samplers >= 1"
    if c.samplers and c.learners > 1 and not c.shard:
        yield f"cluster.learners is {c.learners} beside samplers of their own; expected cluster.shard = true"
    if recipe.engine.kind == "teacher" and recipe.loss.kind != "nll":
        yield "engine.kind is teacher, whose rollouts have no log-probs; expected loss.kind = 'nll'"
    if recipe.engine.kind != "teacher" and not recipe.validation.samples:
        yield "validation.samples is 0, for the loss of traces alone, which only engine.kind = 'teacher' has; expected at least 1"
    if recipe.engine.kind != "teacher" and any(d.task.get("empty_golds") == "keep" for d in recipe.domains):
        yield "task.empty_golds = 'keep' is for fine-tuning, where nobody needs the gold; expected 'error' or 'drop'"
    if recipe.budget.max_epochs and recipe.engine.kind != "teacher":
        yield "budget.max_epochs counts passes over traces, and engine.kind is not teacher; expected budget.max_steps"
    if recipe.loss.kind != "grpo":
        return
    if r.group_size == 1:
        yield "rollout.group_size is 1: a group of one has no advantage; expected at least 2"
    if r.top_p < 1 or r.top_k > 0:
        yield (
            "rollout.top_p / top_k restrict sampling: no ratio can correct for tokens that were never drawn; "
            "set top_p = 1 and top_k = 0 (evaluation may restrict)"
        )
    if r.temperature == 0:
        yield "rollout.temperature is 0: greedy rollouts of a group are all equal; expected above 0"


def _loss(recipe: "Recipe") -> Iterator[str]:
    loss = recipe.loss
    if 0 < loss.dual_clip <= 1:
        yield f"loss.dual_clip is {loss.dual_clip}, expected above 1, or 0 for none"
    if (loss.aggregation == "constant") != bool(loss.normalizer):
        yield "loss.aggregation = 'constant' and loss.normalizer (tokens, the longest response, say) go together"
    if (loss.kl_schedule == "cosine") != bool(loss.kl_horizon) or (loss.kl_horizon and not loss.kl):
        yield "loss.kl_schedule = 'cosine' needs loss.kl above 0 and loss.kl_horizon, the updates until it is 0"
    if loss.kl_in == "reward" and not loss.kl:
        yield "loss.kl_in = 'reward' needs loss.kl above 0"
    if loss.kl_in == "reward" and loss.kl_level != "token":
        yield f"loss.kl_level is {loss.kl_level!r} with loss.kl_in = 'reward', where every token has its own; expected 'token'"
    if loss.kl_in == "reward" and loss.kind != "grpo":
        yield f"loss.kl_in = 'reward' is for loss.kind = 'grpo', got {loss.kind!r}, which has no reward"
    if loss.correction != "none" and loss.old_logprobs != "learner":
        yield "loss.correction is of the learner's old log-probs to the sampler's: set loss.old_logprobs = 'learner'"
    if loss.correction == "mask" and loss.correction_low >= loss.correction_high:
        yield f"loss.correction_low is {loss.correction_low}, expected below loss.correction_high = {loss.correction_high}"
    if loss.entropy_step and not loss.entropy_target:
        yield "loss.entropy_step adapts the bonus to a target: set loss.entropy_target (nats)"
    if loss.entropy_target and not loss.entropy and not loss.entropy_step:
        yield "loss.entropy_target without loss.entropy or loss.entropy_step does nothing; set one of them"
    if loss.entropy_target and loss.entropy < 0:
        yield f"loss.entropy is {loss.entropy} with a target; expected a bonus of at least 0"


def _reference(recipe: "Recipe") -> Iterator[str]:
    if recipe.reference.optimizer == "reset" and not recipe.reference.replace_every:
        yield "reference.optimizer = 'reset' does nothing without reference.replace_every, the steps between replacements"
    if recipe.lora and recipe.reference.replace_every:
        yield "reference.replace_every with [lora], whose reference is the base model; expected one of them"
    if recipe.reference.on_host and recipe.cluster.shard:
        yield "reference.on_host is for learners that hold the whole reference; with cluster.shard each rank has a part of it"
    if recipe.loss.kl:
        return
    if recipe.reference.replace_every:
        yield "reference.replace_every is set without a KL, which alone needs a reference: set loss.kl above 0"


def _pools(recipe: "Recipe") -> Iterator[str]:
    pools = recipe.pools
    if pools is None:
        return
    if not pools.hard_below < pools.easy_above:
        yield f"pools.hard_below is {pools.hard_below}, expected below pools.easy_above = {pools.easy_above}"
    if not any((pools.new, pools.hard, pools.middle, pools.easy)):
        yield "pools: new, hard, middle and easy are all 0, so no problem could be drawn"
    if not pools.new:
        yield "pools.new is 0: no problem would ever be drawn a first time"
    if recipe.loss.kind != "grpo":
        yield f"pools need groups that are right or wrong; loss.kind = {recipe.loss.kind!r} has none"


def _selection(recipe: "Recipe") -> Iterator[str]:
    s, r = recipe.selection, recipe.rollout
    band = ("metric", "low", "high", "tolerance", "max_rounds")
    unused = [name for name in band if getattr(s, name) != type(s).model_fields[name].default]
    if s.dynamic == "off" and unused:
        yield f"selection.{unused[0]} does nothing while selection.dynamic is 'off'; expected 'shrink' or 'refill'"
    if r.truncated != "penalize" and r.truncated_reward != type(r).model_fields["truncated_reward"].default:
        yield f"rollout.truncated_reward does nothing while rollout.truncated is {r.truncated!r}; expected 'penalize'"
    if s.low > s.high:
        yield f"selection.low is {s.low}, above selection.high = {s.high}"
    if s.metric == "reward" and (s.low, s.high) != (0.0, 1.0):
        yield "selection.low and selection.high are a band of accuracy; expected neither with selection.metric = 'reward'"
    if s.pair_advantage == "pair" and s.responses != "pair":
        yield "selection.pair_advantage = 'pair' needs selection.responses = 'pair'"
    if s.oversample > 1 and s.dynamic != "refill":
        yield "selection.oversample above 1 needs selection.dynamic = 'refill': without it the surplus would be trained on"
    if recipe.loss.kind != "grpo" and (s.dynamic != "off" or s.questions != "all" or s.responses != "all"):
        yield f"selection compares the rollouts of a group; loss.kind = {recipe.loss.kind!r} has none to compare"
    if recipe.loss.kind != "grpo" and recipe.shape:
        yield f"shape makes rewards, which loss.kind = {recipe.loss.kind!r} does not look at"
    if recipe.loss.kind != "grpo" and r.truncated in ("exclude", "mask", "penalize"):
        yield f"rollout.truncated = {r.truncated!r} is for loss.kind = 'grpo', got {recipe.loss.kind!r}"


def _learner(recipe: "Recipe") -> Iterator[str]:
    learner, prompts = recipe.learner, recipe.rollout.prompts
    if not all(0.0 <= beta < 1.0 for beta in learner.betas):
        yield f"learner.betas is {list(learner.betas)}, expected two numbers of at least 0 and below 1"
    if learner.minibatch_prompts and prompts % learner.minibatch_prompts:
        yield f"learner.minibatch_prompts is {learner.minibatch_prompts}, which does not divide rollout.prompts = {prompts}"
    open_end = recipe.budget.max_epochs and not learner.total_updates
    if learner.schedule == "cosine" and learner.total_updates <= learner.warmup_updates and not open_end:
        yield "learner.schedule is cosine: set learner.total_updates above learner.warmup_updates"
