"""The house rules as assertions."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from longthink.curation.recipe import load_curation
from longthink.metrics import ALIASES
from longthink.recipe import load_recipe
from longthink.rewards.base import Reward

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "longthink"
MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in MODULES}
MAX_FILE, MAX_FUNCTION = 400, 60
FAMILIES = ("tasks", "rewards", "shaping", "control")
NOT_KINDS = {"__init__", "base", "pool", "worker"}


def functions(tree: ast.AST) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def test_sizes() -> None:
    too_long = [str(path) for path in MODULES if path.read_text().count("\n") > MAX_FILE]
    sizes = {f"{path}:{f.name}": (f.end_lineno or 0) - f.lineno + 1 for path, tree in TREES.items() for f in functions(tree)}
    assert not too_long and not {name: size for name, size in sizes.items() if size > MAX_FUNCTION}


def test_advantages_are_computed_in_one_place() -> None:
    found = {path.name for path, tree in TREES.items() for f in functions(tree) if "advantage" in f.name.lower()}
    assert found == {"advantage.py"}


def test_no_vague_module_names() -> None:
    vague = {"utils", "helpers", "common", "misc", "manager", "v2"}
    assert not {path.stem for path in MODULES} & vague


def test_public_names_are_listed_and_sorted() -> None:
    for path, tree in TREES.items():
        lists = [n.value for n in tree.body if isinstance(n, ast.Assign) and getattr(n.targets[0], "id", "") == "__all__"]
        if path.name == "__init__.py" or not lists:
            continue
        names = ast.literal_eval(lists[0])
        defined = {n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
        defined |= {getattr(t, "id", "") for n in tree.body if isinstance(n, ast.Assign) for t in n.targets}
        defined |= {getattr(n.target, "id", "") for n in tree.body if isinstance(n, ast.AnnAssign)}
        assert sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n)) == names, path
        assert set(names) <= defined, path


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_has_a_test_and_says_where_it_comes_from(family: str) -> None:
    kinds = [path for path in sorted((PACKAGE / family).glob("*.py")) if path.stem not in NOT_KINDS]
    assert kinds
    for path in kinds:
        assert (ROOT / "tests" / family / f"test_{path.stem}.py").is_file(), path
        assert re.search(r"Source|Example|>>>", path.read_text()), path


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_recipes_validate(path: Path) -> None:
    assert load_recipe(path).name == path.stem


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "curation").glob("*.toml")), ids=lambda p: p.stem)
def test_recipes_of_curations_validate(path: Path) -> None:
    assert load_curation(path).name == path.stem


def logged_keys() -> set[str]:
    """Every literal metric key in the package: strings such as reward/mean, and those built from a status."""
    key = re.compile(
        r"(?:sync|async|reward|probe|group|select|pool|domain|length|verdict|policy|loss|learner|mismatch|validation|time|tokens|data|tool)/[a-z0-9_/]+$"
    )
    strings = {
        n.value for tree in TREES.values() for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }
    theirs = {name for names in ALIASES.values() for name in names.values()}
    return {s for s in strings if key.match(s) and not s.endswith("/")} - theirs


def test_every_metric_is_documented() -> None:
    documented = set(re.findall(r"`([a-z0-9_]+/[a-z0-9_/]+)`", (ROOT / "docs" / "metrics.md").read_text()))
    missing = logged_keys() - documented
    assert len(logged_keys()) > 25 and not missing, sorted(missing)


def test_every_field_of_a_verifier_is_documented() -> None:
    text = (ROOT / "docs" / "rewards.md").read_text()
    rows = {
        row.split("`")[1]: row for row in text.split("Fields, with")[1].split("Golds of")[0].splitlines() if row.startswith("| `")
    }
    for kind in Reward.kinds():
        for name, field in Reward.find(kind).model_fields.items():
            if field.is_required():
                assert f"`{name}`" in rows[kind], f"{kind}.{name}"
            elif name not in Reward.model_fields:
                default = json.dumps(field.default).removesuffix(".0") if name != "solved" else "1.0"
                assert f"`{name} = {default}`" in rows[kind], f"{kind}.{name} = {default}"


def documents() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("path", documents(), ids=lambda p: p.name)
def test_relative_links_resolve(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", documents(), ids=lambda p: p.name)
def test_named_files_and_make_targets_exist(path: Path) -> None:
    text = path.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"`?make ([a-z][a-z-]+)", text):
        assert target in targets or target in {"a", "it", "room", "the", "each"}, f"{path.name}: make {target}"
    for name in re.findall(r"`((?:longthink|recipes|tests|benchmarks|docs)/[\w./-]+\.\w+)`", text):
        assert (ROOT / name).exists(), f"{path.name} names {name}"


def test_importing_is_light() -> None:
    code = "import sys, longthink, longthink.cli; print(sorted({'torch', 'ray', 'vllm', 'transformers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_readme_command_is_near_the_top() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()[:25]
    assert any("make quickstart" in line for line in lines)
