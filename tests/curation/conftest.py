"""For every test of a curation: the scripted endpoint, and no drawings where nobody looks at them."""

import pytest
from asking import endpoint

from longthink.analysis import exhibit

__all__ = ["drawn", "endpoint"]


@pytest.fixture
def drawn() -> None:
    """Asked for by a test that needs the drawings of a card."""


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawings are half of a small curation's time."""
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(exhibit, "_png", lambda _: b"")
        monkeypatch.setattr(exhibit, "figure", lambda *_: "")
