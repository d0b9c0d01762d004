"""Plain data between a program and its tests: numbers, text, containers, and instances of classes both sides know."""

import base64
import collections
import json
import os
import struct
from collections.abc import Callable
from typing import Any

from longthink.sandbox.names import SHARED

__all__ = ["Channel", "decode", "encode"]

MAX_MESSAGE, MAX_NODES = 64 << 20, 2_000_000  # bytes; parts of a value


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
