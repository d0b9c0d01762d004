"""What a confined child does: run a program, serve a program's functions, or run tests against such a server.

Tests and the program they test are in two processes, so that expected values never lie in reach of the program. They
talk over a socket in plain data: numbers, text, containers, and instances of the classes both sides know. Anything
else the program returns stays with it; the tests get a token that equals nothing.
"""

import ast
import atexit
import builtins
import contextlib
import gc
import importlib
import json
import os
import random
import resource
import secrets
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from longthink.sandbox.names import HELPERS, PRELOADED, SHARED, namespace
from longthink.sandbox.plain import Channel, decode, encode

__all__ = ["MODES", "subjects"]

RECURSION = 100_000
MAX_WRITTEN = 1 << 20  # bytes of a file, stdout among them, in a session
MAX_VALUE = 4_000  # characters of the value of a session's last line


def read_payload(descriptor: int) -> dict[str, Any]:
    with open(descriptor, "rb") as file:
        return dict(json.loads(file.read()))


def open_streams(*, closing: bool = True) -> None:
    """Fresh text streams over descriptors 0 to 2, which they close at their end if `closing`."""
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=closing)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=closing)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", buffering=1, closefd=closing)  # noqa: SIM115
    sys.setrecursionlimit(RECURSION)


def run_program(payload: int, _: int) -> int:
    """Run source as a script."""
    source = read_payload(payload)["source"]
    open_streams()
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    try:
        exec(compile(source, "program.py", "exec"), vars(module))
    except SystemExit:
        finish(module)
        raise
    finish(module)
    return 0


def finish(module: Any) -> None:
    """What an interpreter does at its end: wait for threads, run exit handlers, let go of the module, flush."""
    main = threading.main_thread()
    for thread in threading.enumerate():
        if thread is not main and not thread.daemon:
            thread.join()
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    vars(module).clear()
    sys.modules.pop("__main__", None)
    gc.collect()
    for stream in (sys.stdout, sys.__stdout__, sys.stderr):
        with contextlib.suppress(BaseException):
            if stream is not None:
                stream.flush()
    sys.stdin = sys.stdout = sys.stderr = None


def run_scripts(payload: int, results: int) -> int:
    """Run source as a script on one input after another; a line of JSON for each: how it ended and what it printed.

    Descriptors 0 and 1 are files in memory. State may leak from one run to the next: a caller believes success only.
    """
    asked = read_payload(payload)
    code, most = compile(asked["source"], "program.py", "exec"), asked["most"]
    kept = os.dup(0), os.dup(1)
    for text in asked["inputs"]:
        for place, descriptor in enumerate(kept):
            os.dup2(descriptor, place)
            os.ftruncate(place, 0)
            os.lseek(place, 0, os.SEEK_SET)
        data = memoryview(text.encode("utf-8", errors="replace"))
        while data:
            data = data[os.write(0, data) :]
        os.lseek(0, 0, os.SEEK_SET)
        open_streams(closing=False)
        module = type(sys)("__main__")
        sys.modules["__main__"] = module
        status, why = "ok", ""
        try:
            exec(code, vars(module))
        except SystemExit as error:
            status = "ok" if error.code in (None, 0) else "error"
        except BaseException as error:
            status = "limit" if isinstance(error, MemoryError) else "error"
            why = f"{type(error).__name__}: {error}"[:300]
        finish(module)
        size = os.fstat(kept[1]).st_size
        status = "limit" if size > most else status
        printed = os.pread(kept[1], min(size, most), 0).decode("utf-8", errors="replace")
        line = memoryview(json.dumps({"status": status, "why": why, "printed": printed}).encode("ascii") + b"\n")
        while line:
            line = line[os.write(results, line) :]
    return 0


def run_session(payload: int, ending: int) -> int:
    """Run blocks of source one after another with the same names, as an interactive session does; only the last one is heard.

    What it prints goes to stdout, an exception to stderr. `ending` gets two lines: the machine's monotonic clock when the last
    block begins, and JSON when it has come to its end: the value of its last line, if that is an expression, as text.
    """
    asked = read_payload(payload)
    *earlier, last = asked["blocks"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_WRITTEN, MAX_WRITTEN))  # stdout and stderr are files in memory
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    cpu_s = min(asked["cpu_s"], most)
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    open_streams(closing=False)
    random.seed(asked["seed"])
    vars(secrets)["randbits"] = random.Random(asked["seed"]).getrandbits  # what NumPy begins with, when it is imported
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    for block in earlier:
        with contextlib.suppress(BaseException):
            run_block(block, vars(module))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    os.dup2(kept[0], 1)
    os.dup2(kept[1], 2)
    open_streams(closing=False)
    status, value, began = 0, None, time.monotonic()
    os.write(ending, f"{began}\n".encode())
    try:
        value = run_block(last, vars(module))
        value = None if value is None else repr(value)
    except BaseException as error:
        status = 0 if isinstance(error, SystemExit) and error.code in (None, 0) else 1
        if status:
            os.write(2, "".join(traceback.format_exception_only(error)).strip().encode(errors="replace")[:4000])
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    told = {"value": value[:MAX_VALUE] if value else None, "seconds": time.monotonic() - began}
    os.write(ending, json.dumps(told).encode())
    os._exit(status)  # without waiting for threads: the next block finds those that it starts itself


def run_block(source: str, names: dict[str, Any]) -> Any:
    """Run a block; the value of its last line where that is an expression."""
    tree = ast.parse(textwrap.dedent(source.strip("\n")), "block.py")
    final = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "block.py", "exec"), names)
    return eval(compile(ast.Expression(final.value), "block.py", "eval"), names) if final is not None else None  # type: ignore[attr-defined]


def serve_functions(payload: int, channel: int) -> int:
    """Run source as a module, then answer calls of its functions until the socket closes."""
    source, line = read_payload(payload)["source"], Channel(channel)
    open_streams()
    names = namespace()
    module = type(sys)("program")
    sys.modules["program"] = module
    vars(module).update(names)
    try:
        exec(compile(source, "program.py", "exec"), vars(module))
    except BaseException:
        line.send({"error": "import"})
        raise
    own = type(sys)("program")  # what it defined itself, not what it was lent
    vars(own).update({k: v for k, v in vars(module).items() if names.get(k) is not v}, program=own)
    line.send({"ready": True})
    objects: list[Any] = []

    def token(value: Any) -> int:
        objects.append(value)
        return len(objects) - 1

    while (request := line.receive()) is not None:
        try:
            line.send(_answer(request, vars(own), objects, token))
        except Exception as error:
            line.send({"error": type(error).__name__, "why": str(error)[:200]})
    return 0


def _answer(request: Any, names: dict[str, Any], objects: list[Any], token: Callable[[Any], int]) -> dict[str, Any]:
    operation, target, *rest = request
    given = [decode(nodes, objects.__getitem__) for nodes in rest]
    if operation == "name":
        return {"token": token(names[target])} if target in names else {"error": "NameError", "why": target}
    subject = objects[target]
    if operation == "call":
        value = subject(*given[0], **given[1])
        return {"value": encode(value, token), "given": encode(given[0], token)}
    if operation == "get":
        return {"value": encode(getattr(subject, given[0]), token)}
    if operation == "set":
        setattr(subject, given[0], given[1])
        return {"value": encode(None, token)}
    if operation == "list":
        return {"value": encode(list(subject), token)}
    raise ValueError(operation)


class Remote:
    """A thing the program keeps: it can be called and looked into, equals nothing, and is true as any object is."""

    __slots__ = ("_number", "_server")

    def __init__(self, server: "Server", number: int) -> None:
        object.__setattr__(self, "_server", server)
        object.__setattr__(self, "_number", number)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._server.call(self._number, list(args), kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._server.ask("get", self._number, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._server.ask("set", self._number, name, value)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._server.ask("list", self._number))


class Server:
    """The tests' end of the line to the program."""

    def __init__(self, channel: Channel) -> None:
        self.channel, self.ready = channel, channel.receive() == {"ready": True}

    def exchange(self, request: list[Any]) -> dict[str, Any]:
        if not self.ready:
            raise RuntimeError("the program does not run")
        self.channel.send(request)
        answer = self.channel.receive()
        if not isinstance(answer, dict):
            self.ready = False
            raise RuntimeError("the program has ended")
        if "error" in answer:
            error = getattr(builtins, str(answer["error"]), None)
            known = isinstance(error, type) and issubclass(error, Exception)
            raise (error if known else RuntimeError)(str(answer.get("why", "")))  # type: ignore[misc]
        return answer

    def plain(self, value: Any) -> list[Any]:
        def number(thing: Any) -> int:
            if type(thing) is Remote:
                return int(thing._number)
            raise TypeError(f"{type(thing).__name__} cannot be handed to the program")

        return encode(value, number)

    def value(self, nodes: Any) -> Any:
        return decode(nodes, lambda number: Remote(self, number))

    def ask(self, operation: str, target: Any, *given: Any) -> Any:
        return self.value(self.exchange([operation, target, *map(self.plain, given)])["value"])

    def call(self, number: int, args: list[Any], kwargs: dict[str, Any]) -> Any:
        sent = self.plain(args)
        answer = self.exchange(["call", number, sent, self.plain(kwargs)])
        if answer["given"] != sent:  # the function changed its arguments in place
            for mine, theirs in zip(args, self.value(answer["given"]), strict=True):
                if isinstance(mine, list) and isinstance(theirs, list):
                    mine[:] = theirs
                elif isinstance(mine, dict | set) and type(mine) is type(theirs):
                    mine.clear()
                    mine.update(theirs)
        return self.value(answer["value"])

    def name(self, name: str) -> Remote | None:
        with contextlib.suppress(NameError):
            return Remote(self, int(self.exchange(["name", name])["token"]))
        return None


class _Asserts(ast.NodeTransformer):
    """Turn `assert x` into a call that notes whether x holds and goes on."""

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        call = ast.Call(ast.Name("__assert__", ast.Load()), [ast.Lambda(nothing, node.test)], [])
        return ast.copy_location(ast.Expr(call), node)


def run_tests(payload: int, channel: int) -> int:
    """Run test source against a served program; a `.` or `F` on stdout for each assertion, `$` at the end."""
    asked = read_payload(payload)
    source, entry = asked["source"], asked["entry"]
    results = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    open_streams()
    server = Server(Channel(channel))
    tree = ast.parse(source)
    names: dict[str, Any] = {**SHARED, **HELPERS, "__name__": "tests"}
    for name in subjects(tree) - set(names):
        if name in (*PRELOADED, "numpy"):  # the program must not lend the tests its own `math`
            names[name] = importlib.import_module(name)
        elif entry and name not in (entry, "Solution", "program"):
            continue
        elif server.ready and (remote := server.name(name)) is not None:
            names[name] = remote

    def note(holds: Callable[[], Any]) -> None:
        try:
            passed = bool(holds())
        except Exception:
            passed = False
        results.write(b"." if passed else b"F")

    names["__assert__"] = note
    code = compile(ast.fix_missing_locations(_Asserts().visit(tree)), "tests.py", "exec")
    try:
        exec(code, names)
    except BaseException:
        traceback.print_exc(limit=-3)
        results.write(b"F")
    results.write(b"$")
    return 0


def subjects(tree: ast.Module) -> set[str]:
    """The names in which tests mean the program: those they do not know themselves.

    A builtin is the tests' own, whatever the program calls so, unless it is the one thing they call at all.
    """
    found = free_names(tree)
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    return called if not found and len(called) == 1 else found


def free_names(tree: ast.Module) -> set[str]:
    """Names a module reads and neither binds anywhere nor finds among the builtins."""
    read, bound = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name):
                bound.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AsyncFunctionDef(name=name):
                bound.add(name)
            case ast.arg(arg=name):
                bound.add(name)
            case ast.alias(name=name, asname=other):
                bound.add((other or name).split(".")[0])
            case ast.ExceptHandler(name=str(name)):
                bound.add(name)
    return {name for name in read - bound if not hasattr(builtins, name)}


MODES = {
    "program": run_program,
    "scripts": run_scripts,
    "session": run_session,
    "serve": serve_functions,
    "test": run_tests,
}
