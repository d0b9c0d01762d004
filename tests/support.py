"""What several tests need: a small random model folder as a user would bring one."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["PROGRAMS", "outcomes", "random_qwen2", "scored_group", "stopped_after_one", "tool_model", "warm_model"]

# DeepSeek's own tokens: \uff5c is the full-width vertical bar, \u2581 the low block that stands for a space.
BOS, EOS = "<\uff5cbegin\u2581of\u2581sentence\uff5c>", "<\uff5cend\u2581of\u2581sentence\uff5c>"
USER, ASSISTANT = "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>"
VOCAB_SIZE = 600

# The habits of the R1 distillations: the system text stands bare after the start token, an old answer loses its
# thinking, and the generation prompt opens the thinking itself.
TEMPLATE = (
    "{{ bos_token }}"
    "{% for m in messages if m.role == 'system' %}{{ m.content }}{% endfor %}"
    "{% for m in messages if m.role != 'system' %}"
    "{% if m.role == 'user' %}" + USER + "{{ m.content }}"
    "{% else %}" + ASSISTANT + "{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "<think>\n{% endif %}"
)


def random_qwen2(folder: Path, texts: Sequence[str], seed: int) -> Path:
    """Write a random Qwen2 of two layers with a byte-level BPE trained on `texts`; the folder, replaced if it exists.

    As in the R1 distillations, `<think>` and the role tokens are single tokens that decoding keeps, the
    tokenizer itself puts a start token before every text, and the embedding has rows no token uses. Query, key
    and value biases and the norms are random too, so a reader that drops one is found out.
    """
    import torch
    from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM

    if folder.exists():
        shutil.rmtree(folder)
    tokenizer = _tokenizer(texts)
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64 + 64,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config).float()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(0.0, 0.1)
                elif "norm" in name:
                    parameter.normal_(1.0, 0.1)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, do_sample=True, temperature=0.6, top_p=0.95
    )
    model.save_pretrained(folder)
    return folder


def _tokenizer(texts: Sequence[str]) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    kept = [AddedToken(text, special=False, normalized=False) for text in (USER, ASSISTANT, "<think>", "</think>")]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE - len(kept),
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    inner.add_tokens(kept)
    inner.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, inner.token_to_id(BOS))])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=BOS, eos_token=EOS, pad_token=EOS)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def outcomes(*pairs: tuple[float, int], window: int = 100, characters: int = 0) -> list[Any]:
    """A group's outcomes from (score, tokens); one of as many tokens as the window, or more, was truncated."""
    from longthink.shaping.base import Outcome

    return [Outcome(score, tokens, characters, window, tokens >= window) for score, tokens in pairs]


def scored_group(
    *members: tuple[float | None, int], window: int = 100, parts: Sequence[dict[str, float]] = (), group: int = 0
) -> Any:
    """A group from (score, tokens), with rewards equal to scores; one as long as the window met it."""
    import numpy as np

    from longthink.types import Group, Problem, Rollout, RolloutId, Sampling, Segment, Verdict

    problem = Problem(f"p{group}", ({"role": "user", "content": "?"},), "1")
    rollouts, verdicts = [], []
    for i, (score, tokens) in enumerate(members):
        segment = Segment("policy", np.arange(tokens), np.zeros(tokens, np.float32))
        reason = "length" if tokens >= window else "stop"
        text = "x" * tokens
        rollouts.append(Rollout(RolloutId(group, i), problem, np.array([1]), (segment,), reason, Sampling(), window, text))
        detail = {"parts": parts[i]} if parts else {}
        verdicts.append(Verdict(score, "ok" if score is not None else "crash", None, detail))
    return Group(problem, tuple(rollouts), tuple(verdicts), tuple(float(s or 0.0) for s, _ in members))


def warm_model(root: Path) -> Path:
    """A tiny model's checkpoint, fine-tuned by the training loop until it solves some Countdown problems of two numbers."""
    from longthink.folder import tiny_folder
    from longthink.recipe import parse_recipe
    from longthink.tasks.countdown import WORDS
    from longthink.train import train

    template = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}<think>"
    tiny_folder(root / "model", WORDS, seed=0, template=template, hidden_size=32, num_hidden_layers=2, intermediate_size=64)
    table: dict[str, Any] = {
        "name": "warm",
        "model": {"path": str(root / "model"), "dtype": "float32"},
        "cluster": {"learners": 1, "threads": 1},
        "task": {"kind": "countdown", "count": 2, "high": 6, "min_target": 2, "seed": 1, "give_up": 0.5},
        "reward": {"kind": "countdown"},
        "workers": 1,
        "engine": {"kind": "teacher"},
        "rollout": {"prompts": 128, "group_size": 1, "window": 200, "truncated": "as_graded"},
        "loss": {"kind": "nll"},
        "learner": {"lr": 5e-3, "minibatch_prompts": 16, "warmup_updates": 10},
        "budget": {"max_steps": 25},
        "checkpoint": {"every": 50},
    }
    return train(parse_recipe(table, "warm"), root / "run").last_checkpoint


# What a rollout may run, each one word of a tokenizer: values, names, exceptions, floods, hangs, deaths, attempts to get out.
PROGRAMS = {
    "plain": ["6*7", "x=7", "print(x)", "1/0", "__import__('random').random()"],
    "hostile": [
        "exec('while(1):pass')",
        "__import__('os')._exit(3)",
        "__import__('os').kill(__import__('os').getpid(),9)",
        "[0]*10**11",
        "print('z'*10**7)",
        "open('/etc/passwd').read()",
        "__import__('os').fork()",
        "__import__('socket').socket()",
    ],
}


def tool_model(root: Path) -> Path:
    """A tiny model's checkpoint that calls the interpreter with one of PROGRAMS, once or twice, then answers at random.

    `few.jsonl` beside it has its problems, `cold.jsonl` the responses it was fine-tuned on.
    """
    import json
    import random

    from longthink.cli import main
    from longthink.folder import tiny_folder

    template = "{{ bos_token }} {% for m in messages %}{{ m['content'] }} {% endfor %}<think>"
    programs = [*PROGRAMS["plain"] * 3, *PROGRAMS["hostile"]]
    words = [
        *dict.fromkeys(programs),
        "<code>",
        "</code>",
        "<output>",
        "</output>",
        "2",
        "3",
        "5",
        "6",
        "+",
        "*",
        "->",
        "42",
        "7",
    ]
    tiny_folder(root / "model", words, seed=0, template=template, hidden_size=32, num_hidden_layers=2, intermediate_size=64)
    draw, rows = random.Random(0), []
    for _ in range(400):
        calls = [f"<code> {draw.choice(programs)} </code><output> 42 </output>" for _ in range(draw.choice((1, 1, 2)))]
        rows.append({"prompt": f"2 3 -> {draw.choice('56')}", "response": f"{' '.join(calls)} </think> 2 {draw.choice('+*')} 3"})
    (root / "cold.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "sft.toml").write_text(f"""
name = "tool_model"
workers = 1
model = {{ path = "{root}/model", dtype = "float32" }}
cluster = {{ learners = 1, threads = 1 }}
task = {{ kind = "file", train = "{root}/cold.jsonl", validation = "{root}/cold.jsonl" }}
tool = {{ format = "tags" }}
rollout = {{ prompts = 40, window = 60 }}
learner = {{ lr = 5e-3, minibatch_prompts = 10, schedule = "cosine" }}
validation = {{ every = 10, problems = 20 }}
budget = {{ max_epochs = 2 }}
""")
    assert main(["sft", str(root / "sft.toml"), "--out", str(root / "run")]) == 0
    checkpoint = max((root / "run" / "checkpoints").iterdir())
    few = [{"prompt": f"2 3 -> {t}", "answer": {"numbers": [2, 3], "target": t}} for t in (5, 6)]
    (checkpoint / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few))
    return checkpoint


def stopped_after_one(recipe: Any, folder: Path) -> Any:
    """A run that was asked to stop in its first step, as by Ctrl-C."""
    from longthink.train import Training

    class Stopping(Training):
        def _finish_step(self, *args: Any) -> None:
            self.progress.stop_requested = True
            super()._finish_step(*args)

    with Stopping(recipe, folder, resume=False, parent=None) as training:
        training.loop()
        return training.run
