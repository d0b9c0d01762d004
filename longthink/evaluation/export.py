"""An evaluation in the files other harnesses write, so that what reads theirs reads ours."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from longthink import storage
from longthink.evaluation.results import Answers, Evaluated

__all__ = ["EXPORTS", "export"]


def export(evaluated: Evaluated, summary: Mapping[str, Mapping[str, Any]], kind: str) -> list[Path]:
    """The files written into the evaluation's folder in the style of `kind`, one of EXPORTS."""
    written = []
    for name, text in EXPORTS[kind](evaluated, summary).items():
        path = evaluated.folder / name
        storage.replace_file(path, text.encode("utf-8", "surrogatepass"))
        written.append(path)
    return written


def _error(numbers: Mapping[str, Any]) -> float:
    """The standard error over problems and samples, as half the 95 % interval over 1.96."""
    return float(numbers["high"] - numbers["low"]) / (2 * 1.96)


def _lm_eval(evaluated: Evaluated, summary: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """results.json and a samples file for each task, as lm-evaluation-harness writes them."""
    facts = evaluated.facts
    settings = {"temperature": facts["temperature"], "top_p": facts["top_p"], "max_gen_toks": facts["window"]}
    results, counts = {}, {}
    for name, s in summary.items():
        results[name] = {"alias": name, "exact_match,none": s["accuracy"], "exact_match_stderr,none": _error(s)}
        counts[name] = {"original": evaluated.sets[name].facts.get("rows", s["problems"]), "effective": s["problems"]}
    whole = {
        "results": results,
        "group_subtasks": {name: [] for name in summary},
        "configs": {name: {"task": name, "repeats": s["n"][0], "generation_kwargs": settings} for name, s in summary.items()},
        "versions": dict.fromkeys(summary, 1),
        "n-shot": dict.fromkeys(summary, 0),
        "n-samples": counts,
        "higher_is_better": {name: {"exact_match": True} for name in summary},
        "config": {"model": "longthink", "model_args": f"pretrained={facts['model']}", "gen_kwargs": settings},
        "random_seed": facts["seed"],
    }
    files = {"results_lm_eval.json": json.dumps(whole, indent=2)}
    for name, answers in evaluated.sets.items():
        files[f"samples_{name}.jsonl"] = "".join(json.dumps(row) + "\n" for row in _lm_eval_rows(answers))
    return files


def _lm_eval_rows(answers: Answers) -> list[dict[str, Any]]:
    rows = []
    for index, (problem, row) in enumerate(zip(answers.problems, answers.samples, strict=True)):
        scores = [s.score for s in row if s.score is not None]
        rows.append(
            {
                "doc_id": index,
                "doc": {"id": problem["id"], "prompt": problem["prompt"]},
                "target": problem["gold"],
                "resps": [[s.text for s in row]],
                "filtered_resps": [s.extracted for s in row],
                "exact_match": sum(scores) / len(scores) if scores else None,
            }
        )
    return rows


def _limit(evaluated: Evaluated) -> int | None:
    """To how many problems a benchmark was cut, where one was."""
    cut = [len(a.problems) for a in evaluated.sets.values() if len(a.problems) < a.facts.get("rows", 0)]
    return max(cut, default=None)


def _lighteval(evaluated: Evaluated, summary: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """results.json as lighteval writes it."""
    facts, results = evaluated.facts, {}
    for name, s in summary.items():
        passed = {f"pass@k:k={k}&n={s['n'][0]}": v for k, v in enumerate(s["pass_at_k"], 1)}
        matched = {"extractive_match": s["accuracy"], "extractive_match_stderr": _error(s)}
        results[f"longthink|{name}|0"] = matched | passed
    keys = {key for found in results.values() for key in found}
    every = {key: sum(f[key] for f in results.values()) / len(results) for key in keys if all(key in f for f in results.values())}
    whole = {
        "config_general": {
            "model_name": facts["model"],
            "max_samples": _limit(evaluated),
            "num_seeds": 1,
            "model_dtype": facts.get("dtype"),
        },
        "results": {**results, "all": every},
        "versions": dict.fromkeys(results, 0),
        "config_tasks": {f"longthink|{name}": {"name": name, "num_samples": [s["n"][0]]} for name, s in summary.items()},
        "summary_tasks": {},
        "summary_general": {},
    }
    return {"results_lighteval.json": json.dumps(whole, indent=2, sort_keys=True)}


EXPORTS: dict[str, Callable[[Evaluated, Mapping[str, Mapping[str, Any]]], dict[str, str]]] = {
    "lm-eval": _lm_eval,
    "lighteval": _lighteval,
}
