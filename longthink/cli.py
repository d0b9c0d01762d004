"""The command line: one verb, one function. A user's mistake prints one message and exits with status 2."""

import argparse
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from longthink.errors import LongthinkError, RecipeError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit status: 0 done, 1 failed a check, 2 refused, 130 interrupted."""
    args = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = args.command
    try:
        return command(args)
    except LongthinkError as e:
        print(f"longthink: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("longthink: interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="longthink", description="Small language models learn to reason by RL with verifiable rewards."
    )
    parser.add_argument("--version", action="version", version=f"longthink {version('longthink')}")
    verbs = parser.add_subparsers(
        required=True,
        metavar="train|sft|curate|eval|compare|analyze|view|serve|check|plan|report|sweep|twins|set|stage|verify|serve-rewards|puzzles|doctor",
    )
    _training_parser(verbs, "train", "", "run a recipe")
    _training_parser(verbs, "sft", "teacher", "run a recipe of supervised fine-tuning: the responses are the task's own")
    u = verbs.add_parser("curate", help="raw problems to a training set: every row kept, or dropped with a reason")
    u.add_argument("recipe", help="a TOML file of sources and steps")
    u.add_argument("--out", type=Path, help="its folder (default curated/<name>); the same command goes on there")
    u.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override a key of the recipe")
    u.add_argument("--workers", type=int, default=0, help="processes (default: one a core)")
    u.set_defaults(command=_later("longthink.curation.command", "command"))
    _evaluation_parsers(verbs)
    c = verbs.add_parser("check", help="validate a recipe, grade its golds, print its arithmetic")
    c.add_argument("recipe")
    c.add_argument("--set", action="append", default=[], metavar="a.b=c")
    c.add_argument("--arm", default="", help="an arm of the recipe's [study]")
    c.add_argument("--on", default="", metavar="1x24|1x80|8x80|4x8x80|FILE", help="a hardware profile, under --set")
    c.add_argument("--golds", type=int, default=1000, help="grade so many golds (default 1000)")
    c.set_defaults(command=_check)
    n = verbs.add_parser("plan", help="memory, seconds a step, tokens, GPU hours and money of a recipe, before spending any")
    n.add_argument("recipe")
    n.add_argument("--on", required=True, metavar="8xA100|4x8x80", help="GPUs and their kind, or their memory in GiB")
    n.add_argument(
        "--lengths", default="", metavar="MEDIAN[:SPREAD]|RUN", help="of responses without a window (4000:0.8, or given traces)"
    )
    n.add_argument("--price", type=float, default=0.0, help="of an hour of one GPU, where none is known")
    n.add_argument("--set", action="append", default=[], metavar="a.b=c")
    n.add_argument("--arm", default="", help="an arm of the recipe's [study]")
    n.set_defaults(command=_later("longthink.planning.plan", "command"))
    r = verbs.add_parser("report", help="write report.html for a run folder")
    r.add_argument("run", type=Path)
    r.set_defaults(command=_later("longthink.report", "command"))
    _control_parsers(verbs)
    _grading_parsers(verbs)
    return parser


def _training_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, engine: str, help: str) -> None:
    t = verbs.add_parser(name, help=help)
    t.add_argument("recipe", nargs="?", help="a TOML file; with --resume the run's own recipe is the default")
    t.add_argument("--out", type=Path, help="the run folder (default runs/<name>)")
    t.add_argument("--set", action="append", default=[], metavar="a.b=c", help="override a key of the recipe")
    t.add_argument("--arm", default="", help="an arm of the recipe's [study]")
    t.add_argument("--on", default="", metavar="1x24|1x80|8x80|4x8x80|FILE", help="a hardware profile, under --set")
    t.add_argument("--resume", action="store_true", help="go on with the run in --out")
    t.add_argument("--from", dest="parent", metavar="RUN[@STEP]", help="begin with the weights of another run's checkpoint")
    t.add_argument(
        "--with", dest="extras", action="append", default=[], choices=("optimizer", "data"), help="what else --from takes"
    )
    t.set_defaults(command=_train, verb=name, engine=engine)


def _evaluation_parsers(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    e = verbs.add_parser("eval", help="sample a model on benchmarks: scores with intervals, every sample kept")
    e.add_argument("model", help="a Hugging Face folder (a checkpoint is one), or an OpenAI-compatible server, http://…/v1")
    e.add_argument(
        "--on", nargs="+", action="extend", required=True, metavar="BENCHMARK", help="ours by name, a data file, or all-local"
    )
    e.add_argument("--data", type=Path, default=Path("data"), help="a folder that holds benchmarks' rows (default data)")
    e.add_argument("--protocol", default="deepscaler", help="a protocol of ours or a TOML file (default deepscaler)")
    e.add_argument("-n", "--samples", type=int, help="responses a problem, in place of the protocol's")
    e.add_argument("--until", metavar="±POINTS", help="sample until the interval over samples is so tight, in points")
    e.add_argument("--problems", type=int, default=1_000_000, help="at most so many problems a benchmark")
    e.add_argument("--window", type=int, help="longest response in tokens, in place of the protocol's")
    e.add_argument("--temperature", type=float, help="in place of the protocol's")
    e.add_argument("--top-p", type=float, help="in place of the protocol's")
    e.add_argument("--reward", default="math", help="the verifier's kind for a data file (default math)")
    e.add_argument("--seed", type=int, default=0)
    e.add_argument("--out", type=Path, help="the evaluation's folder (default evals/MODEL); the same command goes on there")
    e.add_argument(
        "--export",
        action="append",
        default=[],
        choices=("lm-eval", "lighteval"),
        help="also write results as they do; repeatable",
    )
    e.add_argument("--served-model", default="", help="the model's name at a server that has several")
    e.add_argument("--concurrency", type=int, default=32, help="requests that are out at a time, to a server (default 32)")
    e.add_argument("--timeout", type=float, default=1800.0, help="seconds for one reply of a server (default 1800)")
    e.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="settings of model, engine, cluster and tool, as in a recipe"
    )
    e.set_defaults(command=_later("longthink.evaluation.command", "evaluate"))
    c = verbs.add_parser(
        "compare", help="evaluations, or a run's validations, against the first: better, worse or not distinguishable"
    )
    c.add_argument("found", type=Path, nargs="+", metavar="EVAL|RUN")
    c.add_argument("--out", type=Path, help="write compare.html and view.html, with the problems won and lost, into this folder")
    c.set_defaults(command=_compare)
    _analysis_parser(verbs)
    v = verbs.add_parser("view", help="look at the responses of a run or of evaluations, side by side by problem")
    v.add_argument("found", type=Path, nargs="+", metavar="EVAL|RUN")
    v.add_argument("--out", type=Path, help="the page (default view.html in the first folder)")
    v.add_argument("--serve", action="store_true", help="serve it instead: for more than a page holds")
    v.add_argument("--port", type=int, default=8080, help="with --serve; default 8080, 0 picks a free one")
    v.set_defaults(command=_view)
    s = verbs.add_parser("serve", help="put a model folder behind an OpenAI-compatible server")
    s.add_argument("model", type=Path)
    s.add_argument("--host", default="127.0.0.1")
    s.add_argument("--port", type=int, default=8000, help="default 8000; 0 picks a free one")
    s.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="default: what the machine is fast at"
    )
    s.add_argument("--cache-gb", type=float, default=4.0, help="memory for keys and values, default 4")
    s.set_defaults(command=_serve_model)


def _analysis_parser(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    kinds = ("all", "frontier", "coverage", "scaling", "behaviour", "lengths", "format", "contamination", "cost", "curves")
    a = verbs.add_parser("analyze", help="what evaluations and runs show: tables, and with --out csv, pictures and a page")
    a.add_argument("kind", choices=kinds)
    a.add_argument("found", type=Path, nargs="*", metavar="EVAL|RUN")
    a.add_argument("--out", type=Path, help="write csv, png and report.html into this folder")
    a.add_argument("--cutoffs", type=int, nargs="+", help="coverage: windows to look at (default two per doubling)")
    a.add_argument("--replace", action="store_true", help="scaling: draw votes with replacement")
    a.add_argument("--words", type=Path, metavar="TOML", help="behaviour: groups of words in place of ours")
    a.add_argument("--published", action="store_true", help="frontier: the papers' numbers beside ours")
    a.add_argument("--train", type=Path, nargs="+", metavar="FILE", help="contamination: training data")
    a.add_argument("--on", nargs="+", metavar="BENCHMARK", help="contamination: as in `longthink eval`")
    a.add_argument("--data", type=Path, default=Path("data"), help="contamination: as in `longthink eval`")
    axes = ("steps", "tokens", "seconds", "gpu_hours")
    a.add_argument("--by", choices=axes, default="steps", help="curves: what runs are drawn against (default steps)")
    a.add_argument("--step", type=int, help="cost: up to this step")
    a.add_argument("--price", type=float, default=0.0, help="cost: of an hour of one process or GPU")
    a.set_defaults(command=_later("longthink.analysis.command", "analyze"))


def _control_parsers(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    w = verbs.add_parser(
        "sweep", help="run a recipe's study, or a grid of settings, with several seeds; the same command goes on"
    )
    w.add_argument("recipe", type=Path)
    w.add_argument("--grid", action="append", default=[], metavar="a.b=1,2", help="may be repeated: every combination is run")
    w.add_argument("--set", action="append", default=[], metavar="a.b=c")
    w.add_argument("--arm", action="append", default=[], help="only this arm of the recipe's [study]; may be repeated")
    w.add_argument("--seeds", type=int, help="seeds 0 to this minus 1 (default 1, or what [study] says)")
    w.add_argument("--out", type=Path, required=True)
    w.set_defaults(command=_sweep)
    u = verbs.add_parser("twins", help="train on as if each automatic decision of a run had not been taken, and compare")
    u.add_argument("run", type=Path)
    u.add_argument("--steps", type=int, default=10, help="at least so many steps after each decision (default 10)")
    u.set_defaults(command=_later("longthink.twins", "command"))
    s = verbs.add_parser("set", help="change keys of a run, live or paused: it takes them after its next step")
    s.add_argument("run", type=Path)
    s.add_argument("changes", nargs="+", metavar="a.b=c")
    s.set_defaults(command=_set)
    g = verbs.add_parser("stage", help="tell a run, live or paused, what to do after its next step")
    g.add_argument("run", type=Path)
    g.add_argument("do", choices=["next", "reset", "rollback", "pause", "stop"])
    g.set_defaults(command=_stage)


def _grading_parsers(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    v = verbs.add_parser("verify", help="grade rows of a file: a verdict for each, in order")
    v.add_argument(
        "--in",
        dest="source",
        type=Path,
        required=True,
        metavar="ROWS",
        help="jsonl of kind, response, gold, and the verifier's own fields",
    )
    v.add_argument("--out", type=Path, required=True, metavar="VERDICTS")
    v.add_argument("--workers", type=int, default=0, help="processes that grade (default: one a core)")
    v.set_defaults(command=_verify)
    s = verbs.add_parser("serve-rewards", help="grade for trainers on other machines, over HTTP")
    s.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for other machines of a trusted network")
    s.add_argument("--port", type=int, default=8765, help="default 8765; 0 picks a free one")
    s.add_argument("--workers", type=int, default=0, help="processes that grade (default: one a core)")
    s.add_argument(
        "--queue", type=int, default=16_384, help="rows held at most (default 16384); more are refused until there is room"
    )
    s.set_defaults(command=_serve)
    p = verbs.add_parser("puzzles", help="write a file of logic puzzles with what their verifier needs (reasoning-gym)")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="jsonl of prompt and gold, for task kind `file`")
    p.add_argument("--task", action="append", default=[], metavar="NAME", help="may be repeated; default: every usable task")
    p.add_argument("--size", type=int, default=100, help="problems a task (default 100)")
    p.add_argument("--seed", type=int, default=0)
    p.set_defaults(command=_puzzles)
    d = verbs.add_parser("doctor", help="what this machine can run: isolation, processors, packages")
    d.set_defaults(command=_doctor)


def _train(args: argparse.Namespace) -> int:
    from longthink.checkpoint import Parent
    from longthink.recipe import load_recipe
    from longthink.run import Run
    from longthink.sft import by_epochs
    from longthink.shape import pin_files
    from longthink.train import train

    if args.recipe is None and not (args.resume and args.out):
        raise RecipeError(f"{args.verb}: give a recipe, or --resume with --out RUN")
    if (args.set or args.arm or args.on) and args.recipe is None:
        raise RecipeError(f"{args.verb}: --set, --arm and --on need a recipe; a resumed run keeps the recipe it began with")
    recipe = load_recipe(args.recipe, args.set, args.arm, args.on, args.engine) if args.recipe else None
    if recipe and args.engine and recipe.engine.kind != args.engine:
        raise RecipeError(f"sft: engine.kind is {recipe.engine.kind!r}, whose responses are sampled; expected none, or train")
    folder = args.out or Path("runs") / (recipe.name if recipe else "")
    if args.extras and not args.parent:
        raise RecipeError(f"{args.verb}: --with says what --from takes beside the weights; give --from RUN[@STEP]")
    if args.resume:
        if args.parent:
            raise RecipeError(f"{args.verb}: --resume goes on with a run, --from begins another; give one of them")
        recipe = Run.open(folder, by_epochs(pin_files(recipe)) if recipe else None).recipe
        if args.engine and recipe.engine.kind != args.engine:
            raise RecipeError(f"sft: {folder} is a run of `longthink train`, whose responses are sampled; go on with that")
    assert recipe is not None
    parent = None
    if args.parent:
        parent = Parent(_checkpoint_of(args.parent), optimizer="optimizer" in args.extras, data="data" in args.extras)
    run = train(recipe, folder, resume=args.resume, parent=parent)
    if run.complete:
        print(f"done: {run.folder} after step {run.step}; the model is {run.last_checkpoint}")
        return 0
    print(f"stopped after step {run.step}; go on with: longthink {args.verb} --out {run.folder} --resume")
    return 130


def _checkpoint_of(text: str) -> Path:
    """The checkpoint folder of RUN or RUN@STEP. Raises: RecipeError naming the steps there are."""
    from longthink.checkpoint import checkpoint_path, steps

    run, at, step = text.partition("@")
    found = steps(Path(run))
    if not found:
        raise RecipeError(f"--from {text}: {run} has no checkpoints; expected a run folder")
    if at and (not step.isdigit() or int(step) not in found):
        raise RecipeError(f"--from {text}: no checkpoint of step {step!r}; there are {', '.join(map(str, found))}")
    return checkpoint_path(Path(run), int(step) if at else found[-1])


def _sweep(args: argparse.Namespace) -> int:
    from longthink.recipe import load_study
    from longthink.sweep import grid_cells, study_cells, sweep

    study = load_study(args.recipe)
    if args.arm and study is None:
        raise RecipeError(f"sweep: {args.recipe} has no [study], so no arms; leave --arm out, or use --grid")
    if args.grid and args.arm:
        raise RecipeError("sweep: --arm chooses among a study's arms, --grid makes cells of its own; give one of them")
    cells = grid_cells(args.grid) if args.grid or study is None else study_cells(study)
    if unknown := sorted(set(args.arm) - {c.arm for c in cells}):
        raise RecipeError(f"--arm {unknown[0]}: {args.recipe} has no such arm; expected one of {', '.join(c.arm for c in cells)}")
    cells = [c for c in cells if not args.arm or c.arm in args.arm]
    seeds = args.seeds if args.seeds is not None else study.seeds if study and not args.grid else 1
    return sweep(args.recipe, cells, seeds, args.set, args.out, args.out / "sweep.json")


def _set(args: argparse.Namespace) -> int:
    from longthink.hand import ask
    from longthink.recipe import override

    changes: dict[str, Any] = {}
    for text in args.changes:
        override(changes, text)
    ask(args.run, {"do": "set", "set": changes})
    print(f"{args.run} takes it after its next step; see events.jsonl")
    return 0


def _stage(args: argparse.Namespace) -> int:
    from longthink.hand import ask

    ask(args.run, {"do": args.do})
    print(f"{args.run} will {args.do} after its next step; see events.jsonl")
    return 0


def _later(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """A command that lives elsewhere, imported when it is run."""
    return lambda args: int(getattr(import_module(module), name)(args))


def _compare(args: argparse.Namespace) -> int:
    from longthink.evaluation.compare import compare, table
    from longthink.evaluation.gather import gather

    found = gather(args.found)
    if len(found) < 2:
        raise RecipeError(f"compare: {args.found[0]} is one evaluation; give at least two, or a run with several validations")
    made = compare(found)
    print(table(made))
    if args.out:
        from longthink.reports.verdict import write_verdict

        print(write_verdict(args.out, made, found))
    return 0


def _view(args: argparse.Namespace) -> int:
    from longthink.view import serve_view, write_view

    if not 0 <= args.port <= 65_535:
        raise RecipeError(f"view: --port {args.port}; expected 0 to 65535")
    if args.serve:
        serve_view(args.found, args.port)
    else:
        print(write_view(args.found, args.out or args.found[0] / "view.html"))
    return 0


def _serve_model(args: argparse.Namespace) -> int:
    from longthink.serve import serve_model

    if not 0 <= args.port <= 65_535 or args.cache_gb <= 0:
        raise RecipeError(f"serve: --port {args.port} --cache-gb {args.cache_gb}; expected 0 to 65535, and above 0")
    serve_model(args.model, args.host, args.port, args.dtype, args.cache_gb)
    return 0


def _check(args: argparse.Namespace) -> int:
    from longthink.check import check
    from longthink.recipe import load_recipe

    return check(load_recipe(args.recipe, args.set, args.arm, args.on), golds=args.golds)


def _verify(args: argparse.Namespace) -> int:
    from longthink.grade import verify_file

    print(verify_file(args.source, args.out, _workers(args.workers)))
    return 0


def _serve(args: argparse.Namespace) -> int:
    from longthink.reward_server import serve

    if not 0 <= args.port <= 65_535 or args.queue < 1:
        raise RecipeError(f"serve-rewards: --port {args.port} --queue {args.queue}; expected 0 to 65535, and at least 1")
    serve(args.host, args.port, _workers(args.workers), args.queue)
    return 0


def _puzzles(args: argparse.Namespace) -> int:
    from longthink.puzzles import usable_tasks, write_puzzles

    print(write_puzzles(args.out, args.task or usable_tasks(), args.size, args.seed))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from longthink.doctor import report

    print(report())
    return 0


def _workers(asked: int) -> int:
    """Processes that grade: as many as asked for, or one a usable core. Raises: RecipeError for a negative number."""
    from longthink.machine import usable_cores

    if asked < 0:
        raise RecipeError(f"--workers is {asked}, expected at least 1, or 0 for one a core")
    return asked or usable_cores()


if __name__ == "__main__":
    sys.exit(main())
