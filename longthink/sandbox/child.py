"""What a confined child does: run a program, serve a program's functions, or run tests against such a server.

Tests and the program they test are in two processes, so that expected values never lie in reach of the program. They
talk over a socket in plain data: numbers, text, containers, and instances of the classes both sides know. Anything
else the program returns stays with it; the tests get a token that equals nothing.
"""

import ast
import base64
import builtins
import collections
import contextlib
import importlib
import json
import math
import os
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["MODES", "PRELOADED", "decode", "encode"]

PRELOADED = (
    "abc", "array", "bisect", "calendar", "cmath", "collections", "contextlib", "copy", "dataclasses", "datetime", "decimal",
    "difflib", "enum", "fractions", "functools", "hashlib", "heapq", "io", "itertools", "json", "math", "numbers", "operator",
    "pprint", "queue", "random", "re", "secrets", "statistics", "string", "struct", "textwrap", "threading", "time", "typing",
    "unicodedata", "uuid", "zlib", "numpy", "sortedcontainers",
)  # fmt: skip
OPENED = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "typing", "sortedcontainers",
)  # fmt: skip
MAX_MESSAGE, MAX_NODES = 64 << 20, 2_000_000
RECURSION = 100_000

# -- the names LeetCode gives a program ------------------------------------------------------------------------------


class ListNode:
    """A node of a singly linked list."""

    def __init__(self, val: Any = 0, next: Any = None) -> None:
        self.val, self.next = val, next


class TreeNode:
    """A node of a binary tree."""

    def __init__(self, val: Any = 0, left: Any = None, right: Any = None) -> None:
        self.val, self.left, self.right = val, left, right


def list_node(values: list[Any]) -> ListNode | None:
    """The linked list of these values."""
    head: ListNode | None = None
    for value in reversed(values):
        head = ListNode(value, head)
    return head


def tree_node(values: list[Any]) -> TreeNode | None:
    """The tree of these values, level by level; None where a child is missing."""
    if not values:
        return None
    left_over = iter(values[1:])
    root = TreeNode(values[0])
    parents = collections.deque([root])
    while parents:
        parent = parents.popleft()
        for side in ("left", "right"):
            value = next(left_over, None)
            if value is not None:
                node = TreeNode(value)
                setattr(parent, side, node)
                parents.append(node)
    return root


def is_same_list(a: ListNode | None, b: ListNode | None) -> bool:
    """Whether two linked lists hold the same values; a list with a loop equals none."""
    seen = 0
    while a is not None and b is not None and seen <= MAX_NODES:
        if a.val != b.val:
            return False
        a, b, seen = a.next, b.next, seen + 1
    return a is None and b is None


def is_same_tree(a: TreeNode | None, b: TreeNode | None) -> bool:
    """Whether two trees hold the same values in the same places."""
    pairs, seen = [(a, b)], 0
    while pairs:
        x, y = pairs.pop()
        seen += 1
        if x is None or y is None:
            if x is not y:
                return False
        elif x.val != y.val or seen > MAX_NODES:
            return False
        else:
            pairs += [(x.left, y.left), (x.right, y.right)]
    return True


def same_json(a: Any, b: Any) -> bool:
    """Equal as JSON would have them: tuples are lists, keys are text; floats within a relative 1e-9."""
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same_json, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        a, b = ({str(k): v for k, v in d.items()} for d in (a, b))
        return a.keys() == b.keys() and all(same_json(a[k], b[k]) for k in a)
    if isinstance(a, float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-9)
    return a is b or (type(a) is not bool and type(b) is not bool and bool(a == b))


SHARED: dict[str, type] = {"ListNode": ListNode, "TreeNode": TreeNode}
HELPERS = {f.__name__: f for f in (list_node, tree_node, is_same_list, is_same_tree, same_json)}


def namespace() -> dict[str, Any]:
    """The globals of a function-call program: what its authors took for granted. Builtins stay what they are."""
    names: dict[str, Any] = {}
    for module_name in OPENED:
        with contextlib.suppress(ImportError):
            module = importlib.import_module(module_name)
            public = getattr(module, "__all__", None) or [n for n in vars(module) if not n.startswith("_")]
            names.update({n: getattr(module, n) for n in public if not hasattr(builtins, n)})
    for module_name in PRELOADED:
        if module_name in sys.modules:
            names[module_name] = sys.modules[module_name]
    return {**names, **SHARED, **HELPERS, "__name__": "program", "__builtins__": builtins}


# -- plain data -------------------------------------------------------------------------------------------------------


def encode(root: Any, token: Callable[[Any], int]) -> list[Any]:
    """A value as a list of JSON nodes, the first its root; `token` numbers what is not plain data.

    Shared parts stay shared and loops stay loops. Raises: ValueError for a value of too many parts.
    """
    nodes: list[Any] = []
    known: dict[int, int] = {}
    kept, todo = [], []

    def place(value: Any) -> int:
        if id(value) in known:
            return known[id(value)]
        if len(nodes) >= MAX_NODES:
            raise ValueError("a value of too many parts")
        nodes.append(None)
        known[id(value)] = len(nodes) - 1
        kept.append(value)
        todo.append((len(nodes) - 1, value))
        return len(nodes) - 1

    place(root)
    while todo:
        index, value = todo.pop()
        nodes[index] = _describe(value, place, token)
    return nodes


def _describe(value: Any, place: Callable[[Any], int], token: Callable[[Any], int]) -> list[Any]:
    kind = type(value)
    if value is None or kind in (bool, str, float):
        return ["v", value]
    if kind is int:
        return ["v", value] if -(1 << 63) < value < 1 << 63 else ["i", hex(value)]
    if kind is complex:
        return ["c", value.real, value.imag]
    if kind in (bytes, bytearray):
        return ["b", base64.b64encode(value).decode()]
    if kind is range:
        return ["r", value.start, value.stop, value.step]
    if type(value).__module__ == "numpy" and hasattr(value, "item") and not getattr(value, "shape", True):
        return _describe(value.item(), place, token)
    for name, base in (("l", list), ("t", tuple), ("s", set), ("f", frozenset), ("q", collections.deque)):
        if isinstance(value, base):
            return [name, [place(item) for item in base.__iter__(value)]]  # type: ignore[arg-type]
    if isinstance(value, dict):
        return ["d", [[place(k), place(v)] for k, v in dict.items(value)]]
    for plain in (bool, int, float, str):
        if isinstance(value, plain):
            return _describe(plain.__new__(plain, value), place, token)  # type: ignore[type-var]
    if kind.__name__ in SHARED and kind is SHARED[kind.__name__]:
        return ["o", kind.__name__, [[k, place(v)] for k, v in vars(value).items()]]
    return ["h", token(value)]


def decode(nodes: list[Any], token: Callable[[int], Any]) -> Any:
    """The value `encode` described. Raises: anything at all for nodes it did not write."""
    made: dict[int, Any] = {}
    empty = {"l": list, "d": dict, "q": collections.deque}
    for index, node in enumerate(nodes):
        if node[0] in empty:
            made[index] = empty[node[0]]()
        elif node[0] == "o":
            made[index] = object.__new__(SHARED[node[1]])

    def value(index: int) -> Any:
        if index not in made:
            made[index] = _build(nodes[index], value, token)
        return made[index]

    for index in reversed(range(len(nodes))):
        value(index)
    for index, node in enumerate(nodes):
        if node[0] in ("l", "q"):
            made[index].extend(value(i) for i in node[1])
        elif node[0] == "d":
            made[index].update((value(k), value(v)) for k, v in node[1])
        elif node[0] == "o":
            vars(made[index]).update((str(k), value(v)) for k, v in node[2])
    return made[0]


def _build(node: list[Any], value: Callable[[int], Any], token: Callable[[int], Any]) -> Any:
    match node:
        case ["v", plain] if plain is None or isinstance(plain, bool | int | float | str):
            return plain
        case ["i", str(text)]:
            return int(text, 16)
        case ["c", real, imaginary]:
            return complex(real, imaginary)
        case ["b", str(text)]:
            return base64.b64decode(text)
        case ["r", start, stop, step]:
            return range(start, stop, step)
        case ["t", items]:
            return tuple(value(i) for i in items)
        case ["s", items]:
            return {value(i) for i in items}
        case ["f", items]:
            return frozenset(value(i) for i in items)
        case ["h", int(number)]:
            return token(number)
    raise ValueError("not plain data")


class Channel:
    """Messages of JSON, each with its length before it, over a stream socket."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def send(self, message: Any) -> None:
        text = json.dumps(message).encode()
        if len(text) > MAX_MESSAGE:
            raise ValueError("a message too long")
        data = memoryview(struct.pack("!I", len(text)) + text)
        while data:
            data = data[os.write(self.descriptor, data) :]

    def receive(self) -> Any:
        """The next message; None at the end."""
        head = self._read(4)
        if head is None:
            return None
        (size,) = struct.unpack("!I", head)
        body = self._read(size) if size <= MAX_MESSAGE else None
        return None if body is None else json.loads(body)

    def _read(self, size: int) -> bytes | None:
        parts = []
        while size:
            part = os.read(self.descriptor, min(size, 1 << 20))
            if not part:
                return None
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


# -- the modes --------------------------------------------------------------------------------------------------------


def read_payload(descriptor: int) -> dict[str, Any]:
    with open(descriptor, "rb") as file:
        return dict(json.loads(file.read()))


def open_streams() -> None:
    """Fresh text streams over descriptors 0 to 2."""
    sys.stdin = os.fdopen(0, encoding="utf-8", errors="replace")
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", errors="replace")
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="replace", buffering=1)
    sys.setrecursionlimit(RECURSION)


def run_program(payload: int, _: int) -> int:
    """Run source as a script."""
    source = read_payload(payload)["source"]
    open_streams()
    module = type(sys)("__main__")
    sys.modules["__main__"] = module
    exec(compile(source, "program.py", "exec"), vars(module))
    return 0


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
    source = read_payload(payload)["source"]
    results = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    open_streams()
    server = Server(Channel(channel))
    tree = ast.parse(source)
    names: dict[str, Any] = {**SHARED, **HELPERS, "__name__": "tests"}
    for name in subjects(tree) - set(names):
        if name in PRELOADED:  # the program must not lend the tests its own `math`
            names[name] = importlib.import_module(name)
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


MODES = {"program": run_program, "serve": serve_functions, "test": run_tests}
