"""`longthink view`: the responses of a run or of evaluations on one page, side by side by problem, with what they do marked.

The page is static and loads nothing; for more than a browser holds well it is served, and asks for texts as they are looked at.
Responses are hostile text: they enter the page as JSON and are only ever set as text, and the page runs no script but its own.
"""

import base64
import hashlib
import html
import json
import re
import signal
import threading
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from longthink import storage
from longthink.analysis.behaviour import WORDS
from longthink.errors import CheckpointError, EngineError, TaskError
from longthink.evaluation.gather import VALIDATION, set_name
from longthink.evaluation.results import Evaluated, is_evaluation, is_finished, read_evaluation
from longthink.reports.record import distinct_names
from longthink.web import JsonHandler, listen

__all__ = ["CASES", "Gallery", "gallery", "serve_view", "write_view"]

HERE = Path(__file__).parent
CASES = "cases.json"  # in the folder of a run or an evaluation: what was kept, and goes into its report
MAX_PAGE = 64 << 20  # bytes of a static page
MAX_CASES = 16 << 20
STEP = re.compile(r"step_(\d+)\.jsonl")


class Gallery:
    """Every response there is to see: what it can be found by, its problem, and its text."""

    def __init__(self, title: str, home: Path) -> None:
        self.title, self.home = title, home
        self.items: list[dict[str, Any]] = []
        self.problems: dict[str, dict[str, Any]] = {}
        self.texts: list[str] = []

    def add(self, item: dict[str, Any], key: str, problem: dict[str, Any], text: str) -> None:
        self.items.append({"i": len(self.items), "key": key, **item})
        self.problems.setdefault(key, problem)
        self.texts.append(text)

    def page(self, *, whole: bool) -> bytes:
        """The page, with the texts in it or without."""
        fields = ["source", "set", "stage", "step", "score", "status", "finish"]
        held = [name for name in fields if any(name in item for item in self.items)]
        data = {"fields": held, "items": self.items, "problems": self.problems, "words": WORDS, "kept": self.kept()}
        written = json.dumps(data | {"texts": self.texts if whole else None}, ensure_ascii=False, default=str)
        script = (HERE / "view.js").read_text()
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        parts = {"DIGEST": digest, "TITLE": html.escape(self.title), "SCRIPT": script, "DATA": written.replace("<", "\\u003c")}
        page = re.sub(r"\$(DIGEST|TITLE|SCRIPT|DATA)\b", lambda m: parts[m[1]], (HERE / "view.html").read_text())
        return page.encode("utf-8", "replace")

    def kept(self) -> list[int]:
        """The numbers of the responses that were kept before."""
        try:
            cases = json.loads((self.home / CASES).read_bytes())
            named = {(c["source"], c["key"], c["sample"], c.get("step")) for c in cases}
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return [x["i"] for x in self.items if (x["source"], x["key"], x["sample"], x.get("step")) in named]


def gallery(paths: Sequence[Path], keys: Collection[str] | None = None) -> Gallery:
    """The responses of a run's steps and validations, or of one or several evaluations; of those `keys` alone, if they are given.

    A key is `set:problem`. Raises: CheckpointError for a folder that is neither.
    """
    names = distinct_names(paths)
    made = Gallery("longthink view: " + " and ".join(names), paths[0])
    for path, name in zip(paths, names, strict=True):
        if is_evaluation(path):
            _add_evaluation(made, read_evaluation(path), f"{name} (unfinished)" if not is_finished(path) else name, keys)
        elif (path / "rollouts").is_dir():
            _add_run(made, path, name, keys)
        else:
            raise CheckpointError(f"{path}: neither an evaluation nor a run; expected the folder of `longthink eval` or `train`")
    if not made.items:
        raise TaskError(f"{paths[0]}: no response is there yet")
    return made


def _add_evaluation(made: Gallery, found: Evaluated, source: str, keys: Collection[str] | None) -> None:
    for name, answers in found.sets.items():
        for problem, row in zip(answers.problems, answers.samples, strict=True):
            key = f"{name}:{problem['id']}"
            if keys is not None and key not in keys:
                continue
            shown = {"prompt": problem["prompt"], "gold": problem["gold"]}
            for s in row:
                item = {"source": source, "set": name, "problem": problem["id"], "sample": s.number, "tokens": s.tokens}
                item |= {"score": s.score, "status": s.status, "finish": s.finish_reason, "extracted": s.extracted}
                made.add(item, key, shown, s.text)


def _add_run(made: Gallery, path: Path, name: str, keys: Collection[str] | None) -> None:
    stages = {row["step"]: row.get("stage", 0) for row in storage.read_lines(path / "metrics.jsonl")}
    for file in sorted((path / "rollouts").glob("step_*.jsonl")):
        validated = VALIDATION.fullmatch(file.name)
        for row in storage.read_lines(file) if validated or STEP.fullmatch(file.name) else ():
            step, verdict = int(row["step"]), row["verdict"]
            use = set_name(validated[2], row["domain"]) if validated else "training"
            key = f"{use}:{row['problem']}"
            if keys is not None and key not in keys:
                continue
            item = {"source": f"{name} step {step}", "set": use, "stage": stages.get(step, 0), "step": step}
            item |= {"problem": row["problem"], "sample": row["sample"], "tokens": len(row["response_ids"])}
            item |= {"score": row["reward"], "status": verdict["status"], "finish": row["finish_reason"]}
            made.add(item | {"extracted": verdict["extracted"]}, key, {"prompt": row["prompt"]}, row["text"])


def write_view(paths: Sequence[Path], out: Path, keys: Collection[str] | None = None) -> Path:
    """The page about these runs or evaluations, or some of their problems. Raises: TaskError where it would be too large."""
    page = gallery(paths, keys).page(whole=True)
    if len(page) > MAX_PAGE:
        raise TaskError(f"the page would have {len(page) >> 20} MiB; look at it with --serve, which sends texts as they are read")
    storage.make_folder(out.parent)
    storage.replace_file(out, page)
    return out


class Handler(JsonHandler):
    """One connection to a served gallery."""

    max_body = MAX_CASES

    def __init__(self, made: Gallery, *args: Any) -> None:
        self.gallery = made
        super().__init__(*args)

    def do_GET(self) -> None:
        if not self._local():
            self.answer(403, {"error": "only this machine may look"})
            return
        path, asked = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        number = asked.get("i", [""])[0]
        if path == "/":
            self.send(200, self.gallery.page(whole=False), "text/html; charset=utf-8")
        elif path == "/text" and number.isascii() and number.isdigit() and int(number) < len(self.gallery.texts):
            self.send(200, json.dumps(self.gallery.texts[int(number)]).encode(), "application/json")
        elif path == "/search":
            wanted = asked.get("q", [""])[0].lower()
            found = [i for i, text in enumerate(self.gallery.texts) if wanted in text.lower()]
            self.send(200, json.dumps(found).encode(), "application/json")
        else:
            self.refuse_path("/, /text, /search and /cases (POST)")

    def do_POST(self) -> None:
        here = self.headers.get("Host")
        foreign = self.headers.get("Origin", f"http://{here}") != f"http://{here}"
        if self.path != "/cases" or foreign or not self._local():
            self.refuse_path("/, /text, /search and /cases (POST)")
            return
        cases = self.body()
        if cases is not None and not isinstance(cases, list):
            self.answer(400, {"error": "expected a list of cases"})
        elif cases is not None:
            storage.replace_file(self.gallery.home / CASES, json.dumps(cases, indent=1, ensure_ascii=True).encode())
            self.answer(200, {"saved": len(cases)})

    def _local(self) -> bool:
        """Whether the request names this machine: a page elsewhere may have its own name point here."""
        host = (self.headers.get("Host") or "").rpartition(":")[0]
        return host in ("127.0.0.1", "localhost")


def serve_view(paths: Sequence[Path], port: int) -> None:
    """Serve the page on this machine until Ctrl-C. Raises: EngineError where the port is taken."""
    made = gallery(paths)
    front = listen("127.0.0.1", port, partial(Handler, made), EngineError, "another --port")
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    threading.Thread(target=front.serve_forever, daemon=True).start()
    print(f"{len(made.items):,} responses on http://127.0.0.1:{front.server_address[1]}/; Ctrl-C ends it", flush=True)
    ended.wait()
    front.shutdown()
    front.server_close()
