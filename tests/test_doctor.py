"""`longthink doctor`: it names the isolation level that programs get here, and what is missing."""

import pytest

from longthink import doctor
from longthink.cli import main
from longthink.errors import SandboxError
from longthink.sandbox.client import Sandbox


def test_the_level_named_is_the_level_reached(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    with Sandbox(lowest="none") as sandbox:
        assert f"sandbox       {sandbox.level}, " in said
    assert "cores" in said and "GiB" in said and "torch 2." in said


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED", ("no-such-package",))
    monkeypatch.setattr(doctor, "OPTIONAL", {"nor-this-one": "extra"})

    def refuse(**options: object) -> None:
        raise SandboxError("no")

    monkeypatch.setattr(doctor, "Sandbox", refuse)
    said = doctor.report()
    assert "no-such-package MISSING" in said and "no nor-this-one (pip install 'longthink[extra]')" in said
    assert "sandbox       does not start: no" in said


def test_levels_that_are_refused_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    class Weak:
        level, facts = "seccomp", {"uid": None, "failures": {"namespaces": "EPERM", "landlock": "ENOSYS"}}

        def __init__(self, **options: object) -> None: ...
        def __enter__(self) -> "Weak":
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(doctor, "Sandbox", Weak)
    said = doctor.report()
    assert "seccomp, as this user" in said and "below what code and puzzle rewards ask for" in said
    assert "refused here: EPERM" in said and "refused here: ENOSYS" in said
