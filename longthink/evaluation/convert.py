"""Readers of benchmarks whose rows are not of a shape that columns can describe."""

import base64
import io
import json
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from longthink.errors import TaskError

__all__ = ["CONVERTERS", "livecodebench"]

MAX_BYTES = 256 << 20  # of one row's unpacked tests


def livecodebench(data: bytes, out: Path) -> None:
    """LiveCodeBench's rows as prompt, gold, difficulty and platform. Raises: TaskError for a row that is not of its shape."""
    rows = []
    for number, line in enumerate(data.splitlines()):
        if not line.strip():
            continue
        try:
            rows.append(_row(json.loads(line)))
        except Exception as e:  # rows of others may hold anything
            raise TaskError(
                f"LiveCodeBench, row {number}: {type(e).__name__}: {e}; expected the rows of its jsonl files"
            ) from None
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _row(row: dict[str, Any]) -> dict[str, Any]:
    tests = [*json.loads(row["public_test_cases"]), *_private(row["private_test_cases"])]
    entry = json.loads(row["metadata"] or "{}").get("func_name")
    prompt, starter = row["question_content"], row["starter_code"]
    prompt += f"\n\nBegin with this code:\n```python\n{starter}\n```" if starter else ""
    kept = {"prompt": prompt, "difficulty": row["difficulty"], "platform": row["platform"]}
    if entry is None:
        return kept | {"gold": [{"input": t["input"], "output": t["output"]} for t in tests]}
    args = [[json.loads(text) for text in t["input"].split("\n") if text.strip()] for t in tests]
    expected = [json.loads(t["output"]) for t in tests]
    return kept | {"gold": {"entry_point": entry, "args": args, "expected": expected}}


class _Text(pickle.Unpickler):
    """Unpickles text and nothing else: a name that would be looked up, and so could be run, is refused."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        raise pickle.UnpicklingError(f"packed tests name {module_name}.{global_name}; expected text alone")


def _private(packed: str) -> list[dict[str, str]]:
    """The private tests: JSON, or JSON that was pickled, compressed and written in base64."""
    if packed.lstrip().startswith("["):
        return list(json.loads(packed))
    opened = zlib.decompressobj()
    data = opened.decompress(base64.b64decode(packed), MAX_BYTES)
    if opened.unconsumed_tail:
        raise ValueError(f"private tests of more than {MAX_BYTES >> 20} MiB")
    text = _Text(io.BytesIO(data)).load()
    if not isinstance(text, str):
        raise ValueError(f"private tests hold a {type(text).__name__}, expected text")
    return list(json.loads(text))


CONVERTERS: dict[str, Callable[[bytes, Path], None]] = {"livecodebench": livecodebench}
