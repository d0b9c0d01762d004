"""The peers' side of the bench: transformers `generate`, padded training, and TRL's GRPOTrainer. Runs without longthink."""

import ast
import json
import re
import sys
import threading
from fractions import Fraction
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from protocol import Clock, Handlers, serve
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

Rows = list[dict[str, Any]]
Settings = dict[str, Any]


def load(model: Path, dtype: torch.dtype) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=dtype, attn_implementation="sdpa")


class Generation:
    """`generate` on the next prompts, all their samples in one batch; in bf16 the whole model is."""

    def __init__(self, model: Path, dtype: torch.dtype, rows: Rows, settings: Settings) -> None:
        self.model, self.rows, self.settings, self.calls = load(model, dtype).eval(), rows, settings, 0
        self.eos = int(AutoTokenizer.from_pretrained(model).eos_token_id)
        torch.manual_seed(0)

    @torch.inference_mode()
    def __call__(self) -> dict[str, Any]:
        s = self.settings
        rows = self.rows[self.calls * s["prompts"] : (self.calls + 1) * s["prompts"]]
        self.calls += 1
        prompts = left_padded([row["ids"] for row in rows for _ in range(s["group_size"])], self.eos)
        clock = Clock()
        found = self.model.generate(
            **prompts,
            do_sample=True,
            temperature=s["temperature"],
            top_k=0,
            top_p=1.0,
            max_new_tokens=s["window"],
            eos_token_id=self.eos,
            pad_token_id=self.eos,
        )
        times = clock.read()
        ended = found[:, prompts["input_ids"].shape[1] :] == self.eos
        before_end = ended.cumsum(dim=1) - ended.int() == 0
        return {"tokens": int(before_end.sum()), **times}


def left_padded(ids: list[list[int]], pad: int) -> dict[str, torch.Tensor]:
    width = max(map(len, ids))
    tokens = torch.tensor([[pad] * (width - len(i)) + i for i in ids])
    mask = torch.tensor([[0] * (width - len(i)) + [1] * len(i) for i in ids])
    return {"input_ids": tokens, "attention_mask": mask}


class Updates:
    """One padded forward and backward pass per update, all logits, log-softmax and gather; bf16 is autocast."""

    def __init__(self, model: Path, dtype: torch.dtype, batch: Path, settings: Settings) -> None:
        self.model, self.dtype, self.settings = load(model, torch.float32).train(), dtype, settings
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-9, betas=settings["betas"], weight_decay=settings["weight_decay"], fused=True
        )
        data = np.load(batch)
        self.tokens = len(data["tokens"])
        rows = np.array_split(np.arange(len(data["offsets"]) - 1), settings["updates"])
        self.halves = [{name: padded(data, name, half) for name in FIELDS} for half in rows]

    def __call__(self) -> dict[str, Any]:
        clock = Clock()
        for half in self.halves:
            self.update(half)
        return {"tokens": self.tokens, **clock.read()}

    def update(self, half: dict[str, torch.Tensor]) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype == torch.bfloat16):
            output = self.model(input_ids=half["tokens"], attention_mask=half["real"], use_cache=False)
            logprobs = torch.log_softmax(output.logits[:, :-1].float(), dim=-1).gather(2, half["tokens"][:, 1:, None]).squeeze(2)
        loss = clipped_loss(logprobs, {name: value[:, 1:] for name, value in half.items()}, self.settings)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings["grad_clip"])
        self.optimizer.step()


FIELDS = {
    "tokens": torch.long,
    "real": torch.long,
    "loss_mask": torch.float32,
    "sampler_logprobs": torch.float32,
    "advantages": torch.float32,
}


def padded(data: Any, name: str, rows: np.ndarray) -> torch.Tensor:
    """[rows, longest] one array of the batch, right-padded with zeros; `real` is the attention mask."""
    offsets = data["offsets"]
    flat = np.ones(len(data["tokens"])) if name == "real" else data[name]
    grid = np.zeros((len(rows), int(np.diff(offsets)[rows].max())))
    for at, row in enumerate(rows):
        part = flat[offsets[row] : offsets[row + 1]]
        grid[at, : len(part)] = part
    return torch.tensor(grid, dtype=FIELDS[name])


def clipped_loss(logprobs: torch.Tensor, half: dict[str, torch.Tensor], settings: Settings) -> torch.Tensor:
    ratio = torch.exp(logprobs - half["sampler_logprobs"])
    bound = ratio.clamp(1 - settings["clip_low"], 1 + settings["clip_high"])
    per_token = -torch.minimum(ratio * half["advantages"], bound * half["advantages"])
    return (per_token * half["loss_mask"]).sum() / half["loss_mask"].sum()


class Steps(TrainerCallback):
    """GRPOTrainer in a thread that stops after every round (one generation, its updates) until it is asked for the next."""

    def __init__(self, model: Path, dtype: torch.dtype, rows: Rows, settings: Settings, out: Path) -> None:
        self.asked: SimpleQueue[None] = SimpleQueue()
        self.done: SimpleQueue[dict[str, Any] | BaseException] = SimpleQueue()
        self.updates, self.reward = settings["updates"], Reward(model)
        self.trainer = GRPOTrainer(
            model=load(model, torch.float32),
            processing_class=AutoTokenizer.from_pretrained(model),
            reward_funcs=self.reward,
            train_dataset=Dataset.from_list([{key: row[key] for key in ("prompt", "numbers", "target")} for row in rows]),
            args=trl_settings(settings, dtype, out),
            callbacks=[self],
        )
        threading.Thread(target=self._train, daemon=True).start()

    def _train(self) -> None:
        try:
            self.trainer.train()
            raise RuntimeError("TRL's training came to its end before the bench did")
        except BaseException as e:
            self.done.put(e)

    def __call__(self) -> dict[str, Any]:
        self.asked.put(None)
        found = self.done.get()
        if isinstance(found, BaseException):
            raise found
        return found

    def _wait(self) -> None:
        self.asked.get()
        self.clock = Clock()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._wait()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step % self.updates == 0:
            facts = {"tokens": self.reward.tokens, "reward": self.reward.mean}
            self.done.put({**self.clock.read(), **facts})
            self._wait()


def trl_settings(s: Settings, dtype: torch.dtype, out: Path) -> GRPOConfig:
    """The recipe in TRL's words. Off: logging, saving, progress, gradient checkpointing (its default costs about 10 %)."""
    return GRPOConfig(
        output_dir=str(out),
        use_cpu=True,
        bf16=dtype == torch.bfloat16,
        gradient_checkpointing=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        shuffle_dataset=False,
        max_steps=1_000_000,
        per_device_train_batch_size=s["prompts"] * s["group_size"] // s["updates"],
        steps_per_generation=s["updates"],
        num_generations=s["group_size"],
        max_completion_length=s["window"],
        temperature=s["temperature"],
        loss_type="dapo",
        beta=0.0,
        epsilon=s["clip_low"],
        epsilon_high=s["clip_high"],
        learning_rate=s["lr"],
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=s["warmup"],
        adam_beta1=s["betas"][0],
        adam_beta2=s["betas"][1],
        weight_decay=s["weight_decay"],
        max_grad_norm=s["grad_clip"],
    )


class Reward:
    """The same check as ours: ended, all numbers once after `</think>`, exact value. Counts the tokens it sees."""

    __name__ = "countdown"
    allowed = re.compile(r"[0-9+\-*/() ]+")

    def __init__(self, model: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.end, self.tokens, self.mean = self.tokenizer.eos_token_id, 0, 0.0

    def __call__(self, completion_ids: list[list[int]], numbers: list[list[int]], target: list[int], **_: Any) -> list[float]:
        scores = [self.score(*row) for row in zip(completion_ids, numbers, target, strict=True)]
        self.tokens, self.mean = sum(map(len, completion_ids)), sum(scores) / len(scores)
        return scores

    def score(self, ids: list[int], numbers: list[int], target: int) -> float:
        if ids[-1] != self.end:
            return 0.0
        _, tag, answer = self.tokenizer.decode(ids[:-1]).rpartition("</think>")
        answer = answer.strip()
        if not tag or not answer or len(answer) > 200 or not self.allowed.fullmatch(answer):
            return 0.0
        used: list[int] = []
        try:
            value = exact(ast.parse(answer, mode="eval").body, used)
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
            return 0.0
        return float(sorted(used) == sorted(numbers) and value == target)


def exact(node: ast.AST, used: list[int]) -> Fraction:
    match node:
        case ast.Constant(value=int(value)):
            used.append(value)
            return Fraction(value)
        case ast.BinOp(left=left, op=op, right=right):
            a, b = exact(left, used), exact(right, used)
            match op:
                case ast.Add():
                    return a + b
                case ast.Sub():
                    return a - b
                case ast.Mult():
                    return a * b
                case ast.Div():
                    return a / b
    raise ValueError("not plain arithmetic")


def read_rows(model: Path, path: Path) -> Rows:
    """The problems; their text must give this tokenizer the ids our side uses."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert [tokenizer(text=row["prompt"])["input_ids"] for row in rows[:100]] == [row["ids"] for row in rows[:100]]
    return rows


def start() -> Handlers:
    """The measures of this side: model folder, work folder and dtype are on the command line."""
    model, work, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dtype = getattr(torch, name)
    settings, rows = json.loads((work / "settings.json").read_text()), read_rows(model, work / "problems.jsonl")
    return {
        "generation": Generation(model, dtype, rows, settings),
        "training": Updates(model, dtype, work / "batch.npz", settings),
        "step": Steps(model, dtype, rows, settings, work / f"trl-{name}"),
    }


if __name__ == "__main__":
    serve(start)
