"""What programs and their tests take for granted: LeetCode's classes and helpers, and the usual imports."""

import builtins
import collections
import contextlib
import importlib
import math
import sys
from typing import Any

__all__ = ["HELPERS", "PRELOADED", "SHARED", "namespace"]

MAX_NODES = 2_000_000  # of a list or tree that may have a loop
PRELOADED = (
    "abc", "array", "bisect", "calendar", "cmath", "collections", "contextlib", "copy", "dataclasses", "datetime", "decimal",
    "difflib", "enum", "fractions", "functools", "hashlib", "heapq", "io", "itertools", "json", "math", "numbers", "operator",
    "pprint", "queue", "random", "re", "secrets", "statistics", "string", "struct", "textwrap", "threading", "time", "typing",
    "unicodedata", "uuid", "zlib", "sortedcontainers",
)  # fmt: skip
OPENED = (
    "typing", "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "sortedcontainers",
)  # fmt: skip


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
