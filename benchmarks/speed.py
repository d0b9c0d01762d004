"""`make bench`: ratios against transformers and TRL as medians of interleaved pairs, all on one core of this machine.

Four processes live through the whole run, each side in bf16 and in fp32. They take turns: one measures, the
others block on their stdin. A pair is one turn of each; the first turn of all is not counted.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from limit import token_flops
from prepare import WARM_STEPS, make_model, prepare
from protocol import Side

from longthink.errors import LongthinkError
from longthink.folder import read_config
from longthink.machine import cpu_name, fast_bf16
from longthink.run import versions

HERE = Path(__file__).resolve().parent
WORK = HERE.parent / "runs" / "bench"


class Measure(NamedTuple):
    """What is measured, against whom, and the ratio that is aimed for."""

    name: str
    title: str
    peer: str
    target: float


MEASURES = (
    Measure("generation", "generation, useful tokens", "transformers `generate`", 5.0),
    Measure("training", "training, useful tokens", "transformers, padded", 5.0),
    Measure("step", "whole step, generated tokens", "TRL `GRPOTrainer`", 4.0),
)
Pair = dict[str, dict[str, Any]]  # "ours/bfloat16" -> its answer
NOTES = """Both sides: the same model folder ({model}), 16 prompts x 16 samples, at most 192 new tokens, temperature 1, two
updates a batch with AdamW, one thread. Our bf16 is that of matmuls and cache.
Per measure:

- generation: tokens up to and including the end token. Peer: `generate` with its dynamic cache and sdpa; in bf16 the whole
  model is bf16.
- training: both updates of one batch ({sequences} sequences of groups with mixed rewards, {tokens} tokens without padding, the
  longest {longest}), the same clipped loss. Peer: two right-padded halves, all logits, log-softmax and gather; bf16 is autocast.
- whole step: ours is the training loop's own step in one process, with a verifier process on the same core and rollouts and
  metrics written to disk. Peer: loss_type dapo, beta 0, steps_per_generation 2, a Python reward with the same check, nothing
  logged or saved, gradient checkpointing off (it is on by default and slower); bf16 is its own autocast.
- limit: FLOPs of a token's matmuls and attention over the matmul rate measured beside every pair, as if all were in that dtype
  and the cache were read for nothing.
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, help="a fine-tuned Countdown model folder; without one it is made")
    parser.add_argument("--peer", required=True, help="the Python of the peers' environment")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=HERE / "results")
    parser.add_argument("--only", choices=[m.name for m in MEASURES], action="append", help="leave the others out")
    args = parser.parse_args(argv)
    facts: dict[str, Any] = {"machine": machine(), "versions": {"ours": versions(), "peer": peer_versions(args.peer)}}
    try:
        model = args.model or make_model(WORK)
        facts["batch"] = prepare(model, WORK)
    except LongthinkError as e:
        print(f"bench: {e}", file=sys.stderr)
        return 2
    facts["model"] = "given" if args.model else f"made here, {WARM_STEPS} steps of countdown_sft_cpu.toml"
    measures = [m for m in MEASURES if not args.only or m.name in args.only]
    pairs, limits = measure_all(measures, args.peer, model, args.pairs)
    rows = [row for m in measures for row in compare(m, pairs[m.name])]
    shares = limit_shares(model, pairs, limits)
    report = facts | {"pairs": pairs, "limits": limits, "rows": rows, "shares": shares}
    report["verdicts"] = verdicts(measures, rows) if fast_bf16() else []
    page = markdown(report)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "speed.json").write_text(json.dumps(report, indent=1) + "\n")
    (args.out / "speed.md").write_text(page)
    print(f"\n{page}")
    return 0


# -- measuring ----------------------------------------------------------------------------------------------------


def measure_all(measures: Sequence[Measure], peer: str, model: Path, count: int) -> tuple[dict[str, list[Pair]], list[Pair]]:
    """All pairs of all measures, and the matmul rates measured beside every pair."""
    sides = start_sides(peer, model)
    try:
        pairs: dict[str, list[Pair]] = {}
        limits: list[Pair] = []
        for m in measures:
            say(f"{m.name}: a first turn of each, not counted")
            turns(sides, m.name)
            pairs[m.name] = []
            for number in range(count):
                pairs[m.name].append(turns(sides, m.name))
                limits.append({name: side.ask("limit") for name, side in sides.items() if name.startswith("ours")})
                say(f"{m.name} {number + 1}/{count}: {shown(pairs[m.name][-1])}")
        return pairs, limits
    finally:
        for side in sides.values():
            side.close()


def start_sides(peer: str, model: Path) -> dict[str, Side]:
    """The processes in the order of their turns. Where bf16 is emulated only fp32 is measured."""
    core, pythons = min(os.sched_getaffinity(0)), {"ours": sys.executable, "peer": peer}
    names = (
        ("ours/bfloat16", "peer/float32", "ours/float32", "peer/bfloat16") if fast_bf16() else ("ours/float32", "peer/float32")
    )
    for old in WORK.glob("steps-*"):
        shutil.rmtree(old)
    say(f"starting {len(names)} processes on core {core}")
    sides = {}
    for name in names:
        side, dtype = name.split("/")
        command = [pythons[side], str(HERE / f"{side}.py"), str(model), str(WORK), dtype]
        sides[name] = Side(command, WORK / f"{side}-{dtype}.log", core)
    return sides


def turns(sides: dict[str, Side], measure: str) -> Pair:
    return {name: side.ask(measure) for name, side in sides.items()}


def say(text: str) -> None:
    print(f"bench: {text}", flush=True)


def shown(pair: Pair) -> str:
    return "  ".join(f"{name} {rate(found):,.0f} tok/s" for name, found in pair.items())


# -- comparing ----------------------------------------------------------------------------------------------------


def rate(found: dict[str, Any], clock: str = "seconds") -> float:
    return float(found["tokens"] / found[clock])


def ratio(pair: Pair, ours: str, peer: str, clock: str = "seconds") -> float:
    return rate(pair[ours], clock) / rate(pair[peer], clock)


def compare(m: Measure, pairs: list[Pair]) -> list[dict[str, Any]]:
    """A row for our bf16 against each dtype of the peer, and one for fp32 against fp32."""
    sides: dict[str, list[str]] = {s: sorted(n for n in pairs[0] if n.startswith(s)) for s in ("ours", "peer")}
    rows = []
    for ours, peer in ((o, p) for o in sides["ours"] for p in sides["peer"]):
        if ours == "ours/float32" and peer != "peer/float32":
            continue
        ratios = [ratio(p, ours, peer) for p in pairs]
        row = {"measure": m.name, "ours": ours.split("/")[1], "peer": peer.split("/")[1], "ratio": statistics.median(ratios)}
        row |= {"lowest": min(ratios), "highest": max(ratios), "ratios": ratios}
        row["cpu_ratio"] = statistics.median(ratio(p, ours, peer, "cpu_seconds") for p in pairs)
        for side, name in (("ours", ours), ("peer", peer)):
            row[f"{side}_tokens_per_s"] = statistics.median(rate(p[name]) for p in pairs)
            row[f"{side}_seconds"] = statistics.median(p[name]["seconds"] for p in pairs)
            row[f"{side}_tokens"] = statistics.median(p[name]["tokens"] for p in pairs)
        rows.append(row)
    return rows


def limit_shares(model: Path, pairs: dict[str, list[Pair]], limits: list[Pair]) -> list[dict[str, Any]]:
    """How much of what this core could multiply our decoding and training reach: FLOPs per token over GFLOP/s."""
    config, shares = read_config(model), []
    for measure, kind, passes in (("generation", "decode", 1), ("training", "train", 3)):
        for name in limits[0] if measure in pairs else ():
            gflops = statistics.median(found[name][f"{kind}_gflops"] for found in limits)
            flops = passes * token_flops(config, statistics.median(p[name]["context"] for p in pairs[measure]))
            reached, bound = statistics.median(rate(p[name]) for p in pairs[measure]), gflops * 1e9 / flops
            facts = {"gflops": gflops, "flops_per_token": flops, "bound_tokens_per_s": bound, "tokens_per_s": reached}
            shares.append({"what": kind, "dtype": name.split("/")[1], **facts, "share": reached / bound})
    return shares


def verdicts(measures: Sequence[Measure], rows: list[dict[str, Any]]) -> list[str]:
    """One line a target: our bf16 against the peer in the dtype that is better for the peer."""
    found = [(m, min(r["ratio"] for r in rows if (r["measure"], r["ours"]) == (m.name, "bfloat16"))) for m in measures]
    return [verdict(m, ratio) for m, ratio in found]


def verdict(m: Measure, ratio: float) -> str:
    met = "met" if ratio >= m.target else "NOT met"
    return f"{m.title} against {m.peer} in its better dtype: {ratio:.2f}x, target {m.target:g}x: {met}"


# -- telling ------------------------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """The processor and how busy it was when the bench began."""
    return {"cpu": cpu_name(), "cores": os.cpu_count(), "load": os.getloadavg()[0], "fast_bf16": fast_bf16()}


def peer_versions(python: str) -> dict[str, str]:
    """The packages of the peers' environment that matter here."""
    names = ("trl", "transformers", "torch", "accelerate", "datasets")
    code = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {names!r}}}))"
    return dict(json.loads(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout))


def markdown(report: dict[str, Any]) -> str:
    """The page: ratios, the share of the physical limit, verdicts, and what was compared with what."""
    m, v, count = report["machine"], report["versions"]["peer"], len(next(iter(report["pairs"].values())))
    lines = [
        f"One core of {m['cpu']} ({m['cores']} cores, load {m['load']:.1f} at the start), torch {v['torch']}, transformers "
        f"{v['transformers']}, TRL {v['trl']}. Medians of {count} interleaved pairs. Others had the core for "
        f"{taken(report['pairs']):.0%} of the measured time.",
        "",
        "| measured | ours | peer | ours, tok/s (s) | peer, tok/s (s) | ratio (lowest to highest) | by CPU time |",
        "|---|---|---|---|---|---|---|",
        *(table_row(row) for row in report["rows"]),
        "",
        "| share of the limit | dtype | measured GFLOP/s | FLOPs a token | bound, tok/s | reached |",
        "|---|---|---|---|---|---|",
        *(share_row(s) for s in report["shares"]),
        "",
        *(f"- {line}" for line in report["verdicts"]),
    ]
    if not report["verdicts"]:
        lines.append("This CPU multiplies bf16 slowly (no AVX512-BF16, no AMX): the targets are not judged here.")
    return "\n".join([*lines, "", NOTES.format(model=report["model"], **report["batch"])])


def taken(pairs: dict[str, list[Pair]]) -> float:
    """The share of the measured time in which a measuring process waited for the core: a quiet machine shows about 0."""
    found = [answer for some in pairs.values() for pair in some for answer in pair.values()]
    return max(0.0, 1 - sum(f["cpu_seconds"] for f in found) / sum(f["seconds"] for f in found))


def table_row(row: dict[str, Any]) -> str:
    m = next(m for m in MEASURES if m.name == row["measure"])
    cells = [m.title, row["ours"], f"{m.peer}, {row['peer']}"]
    cells += [f"{row[f'{side}_tokens_per_s']:,.0f} ({row[f'{side}_seconds']:.2f})" for side in ("ours", "peer")]
    return (
        f"| {' | '.join(cells)} | **{row['ratio']:.2f}** ({row['lowest']:.2f} to {row['highest']:.2f}) | {row['cpu_ratio']:.2f} |"
    )


def share_row(s: dict[str, Any]) -> str:
    flops, bound = f"{s['flops_per_token'] / 1e6:.2f} M", f"{s['bound_tokens_per_s']:,.0f}"
    return f"| {s['what']} | {s['dtype']} | {s['gflops']:.0f} | {flops} | {bound} | {s['tokens_per_s']:,.0f} ({s['share']:.0%}) |"


if __name__ == "__main__":
    sys.exit(main())
