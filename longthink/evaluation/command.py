"""`longthink eval`: from arguments to a folder of samples and a table."""

import argparse
from pathlib import Path
from typing import Any

from longthink.errors import RecipeError
from longthink.evaluation.export import export
from longthink.evaluation.models import open_model
from longthink.evaluation.protocols import Protocol, read_protocol
from longthink.evaluation.results import read_evaluation
from longthink.evaluation.run import evaluate_suites, table
from longthink.evaluation.suite import load_suites
from longthink.machine import usable_cores
from longthink.part import load_part
from longthink.recipe import override
from longthink.rewards.base import Reward

__all__ = ["evaluate"]


def evaluate(args: argparse.Namespace) -> int:
    """0, or 130 when it was interrupted: the same command goes on. Raises: LongthinkError before anything is generated."""
    protocol = _protocol(args)
    for name, least in (("problems", 1), ("concurrency", 1), ("timeout", 0.1)):
        if (value := getattr(args, name)) < least:
            raise RecipeError(f"eval: --{name} {value}; expected at least {least}")
    load_part(Reward, {"kind": args.reward}, "--reward")
    settings: dict[str, Any] = {}
    for text in args.set:
        override(settings, text)
    if unknown := sorted(set(settings) - {"cluster", "engine", "model", "tool"}):
        raise RecipeError(f"--set {unknown[0]}: an evaluation takes settings of model, engine, cluster and tool alone")
    if "tool" in settings and args.model.startswith(("http://", "https://")):
        raise RecipeError("--set tool: the interpreter goes with the folder of a model; a server's responses are whole")
    suites = load_suites(args.on, args.data, protocol, {"kind": args.reward})
    for suite in suites:
        if expected := suite.facts().get("expected_rows"):
            print(f"note: {suite.name} has {suite.rows} rows in {suite.file}, and {expected} as published")
    asked = {"window": protocol.window, "table": settings, "served": args.served_model}
    out = args.out or Path("evals") / _model_name(args.model)
    with open_model(args.model, **asked, concurrency=args.concurrency, timeout_s=args.timeout, notice=print) as model:
        found = evaluate_suites(suites, protocol, model, out, problems=args.problems, seed=args.seed, workers=usable_cores())
    if found is None:
        print(f"interrupted; the same command goes on in {out}")
        return 130
    print(table(found))
    for kind in args.export:
        print("\n".join(map(str, export(read_evaluation(out), found["benchmarks"], kind))))
    print(f"every sample is in {out}; `longthink compare` and `longthink view` read it")
    return 0


def _protocol(args: argparse.Namespace) -> Protocol:
    """The protocol with what the command line puts in place of its own. Raises: RecipeError for a value out of range."""
    protocol = read_protocol(args.protocol)
    given = {k: getattr(args, k) for k in ("samples", "window", "temperature", "top_p")}
    given = {k: v for k, v in given.items() if v is not None}
    if args.until is not None and args.samples is not None:
        raise RecipeError("eval: -n says how many samples, --until how tight the interval; give one of them")
    if args.until is not None:
        try:
            given["until"] = float(args.until.lstrip("±+-")) / 100
        except ValueError:
            given["until"] = 0.0
        if not given["until"] > 0.0:
            raise RecipeError(f"--until {args.until}: expected points above 0, such as ±2")
    elif args.samples is not None:
        given["until"] = 0.0
    try:
        return Protocol.model_validate(protocol.model_dump() | given)
    except ValueError as e:
        said = "; ".join(f"{'.'.join(map(str, x['loc']))}: {x['msg']}" for x in getattr(e, "errors", list)())
        raise RecipeError(f"eval: {said}") from None


def _model_name(model: str) -> str:
    """What a model is called by default: its folder's name, with the run's where it is a checkpoint."""
    if model.startswith(("http://", "https://")):
        return model.split("//", 1)[1].split("/")[0].replace(":", "_")
    path = Path(model).resolve()
    return f"{path.parents[1].name}_{path.name}" if path.parent.name == "checkpoints" else path.name
