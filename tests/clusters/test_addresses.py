"""Where a Ray is looked for: Ray itself waits for minutes for one that is gone."""

import socket
from pathlib import Path

import pytest
from clusters.test_async import recipe
from clusters.test_ray import CLUSTER

from longthink.errors import EngineError

pytestmark = pytest.mark.cluster
placement = pytest.importorskip("longthink.clusters.ray", exc_type=ImportError)


def test_an_address_where_no_ray_answers_is_refused_at_once(warm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(EngineError, match=r"no Ray answers at RAY_ADDRESS = '127.0.0.1:9'"):
        placement.RayPlacement(recipe(warm_folder, 0, cluster=CLUSTER))


def test_what_is_left_of_a_ray_that_is_gone_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert placement._started_here() == "" and not placement._answers("")
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
    assert placement._started_here() == "127.0.0.1:9" and not placement._answers("127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as there:
        assert placement._answers(f"127.0.0.1:{there.getsockname()[1]}")
