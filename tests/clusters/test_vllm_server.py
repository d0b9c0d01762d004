"""vLLM behind servers: rollouts taken out, settings that do not fit, a run, a server that dies and one that forgets."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clusters.test_async import whole
from clusters.test_vllm import recipe, rows_of
from servers import VllmProcess, vllm_process

from longthink.engines.base import Engine
from longthink.errors import EngineError, WorkerLost
from longthink.folder import ModelFolder
from longthink.train import Training, train
from longthink.types import Problem, Request, Rollout, RolloutId, Sampling

pytestmark = pytest.mark.cluster
pytest.importorskip("vllm")
PROBLEM = Problem("p", ({"role": "user", "content": "?"},), None)


@pytest.fixture(scope="module")
def server(warm_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmProcess]:
    with vllm_process(warm_folder, tmp_path_factory.mktemp("server") / "said") as made:
        made.wait()
        yield made


def client(server: VllmProcess, model: Path, **settings: Any) -> Any:
    from longthink.engines.vllm.server import VllmServer

    config = ModelFolder(model).config
    return VllmServer(server.address, config, dtype=torch.float32, **{"stop_ids": frozenset({1}), "max_rows": 4, **settings})


def run(engine: Engine, requests: list[Request]) -> dict[RolloutId, Rollout]:
    for request in requests:
        engine.submit(request)
    return {rollout.id: rollout for rollout in engine.finished()}


def test_what_is_taken_out_goes_on_where_it_was(server: VllmProcess, warm_folder: Path) -> None:
    """Wherever each of them was: waiting here, running there, or ended before the server heard of it."""
    engine, decoder = client(server, warm_folder), ModelFolder(warm_folder).decoder()
    engine.load(decoder, 0)
    greedy = [Request(RolloutId(g, 0), PROBLEM, np.arange(2, 12) + g, 100, Sampling(0.0), seed=g) for g in range(12)]
    expected, reasons, cuts = run(engine, greedy), set[str](), set[int]()
    for version in range(1, 11):
        first = replace(greedy[0], max_tokens=3 * version)
        for request in (first, *greedy[1:]):
            engine.submit(request)
        assert next(engine.finished()) is not None
        left = [
            r for r in (first, *greedy[1:]) if r.id in engine._waiting or any(x.request is r for x in engine._running.values())
        ]
        if engine._running:
            with pytest.raises(EngineError, match="weights cannot change under running rollouts"):
                engine.load(decoder, version)
        taken = {r.id: engine.abort(r.id) for r in left}
        assert not engine._running and not engine._waiting
        engine._done.clear()
        engine.load(decoder, version)
        again = [replace(r, segments=taken[r.id].segments) for r in left if taken[r.id].finish_reason == "aborted"]
        found = run(engine, again) | {id: t for id, t in taken.items() if t.finish_reason != "aborted"}
        for request in left:
            if request is not first:
                np.testing.assert_array_equal(found[request.id].response_ids, expected[request.id].response_ids)
                assert found[request.id].segments[-1].policy_version in (version - 1, version)
        reasons |= {t.finish_reason for t in taken.values()}
        cuts |= {t.num_tokens for t in taken.values() if t.finish_reason == "aborted"}
    assert "aborted" in reasons and 0 in cuts and max(cuts) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transfer": "nccl"}, r"was started with the weight transfer longthink; expected nccl"),
        ({"transfer": "/nowhere"}, r"engine.transfer is /nowhere: no folder one can write into"),
        ({"dtype": torch.bfloat16}, r"was started with --dtype torch.float32; expected torch.bfloat16"),
    ],
)
def test_a_server_started_otherwise_is_refused(
    server: VllmProcess, warm_folder: Path, settings: dict[str, Any], message: str
) -> None:
    from longthink.engines.vllm.server import VllmServer

    made = {"dtype": torch.float32, "stop_ids": frozenset({1})} | settings
    with pytest.raises(EngineError, match=message):
        VllmServer(server.address, ModelFolder(warm_folder).config, **made)


def test_an_address_where_nobody_answers(warm_folder: Path) -> None:
    from longthink.engines.vllm.server import VllmServer

    with pytest.raises(EngineError, match=r"engine.servers: http://127.0.0.1:9 does not answer"):
        config = ModelFolder(warm_folder).config
        VllmServer("http://127.0.0.1:9", config, dtype=torch.float32, stop_ids=frozenset({1}), patience_s=0.1)


def test_weights_that_change_on_the_way_are_named(
    server: VllmProcess, warm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from longthink.engines.vllm import transfer

    engine, decoder = client(server, warm_folder, transfer=str(tmp_path)), ModelFolder(warm_folder).decoder()
    honest = transfer.digest
    monkeypatch.setattr(transfer, "digest", lambda named: honest(named) | {"model.norm.weight": 7})
    with pytest.raises(EngineError, match=r"1 of \d+ tensors differ from what was sent: model.norm.weight"):
        engine.load(decoder, 1)
    monkeypatch.undo()
    engine.load(decoder, 2)
    assert len(run(engine, [request()])) == 1
    assert not list(tmp_path.iterdir())


def request(group: int = 0, tokens: int = 4) -> Request:
    return Request(RolloutId(group, 0), PROBLEM, np.arange(5), tokens, Sampling(), seed=1)


def test_a_client_that_died_in_a_hand_over_leaves_nothing_that_stops_the_next(server: VllmProcess, warm_folder: Path) -> None:
    decoder = ModelFolder(warm_folder).decoder()
    first = client(server, warm_folder)
    first.load(decoder, 1)
    expected = run(first, [request(tokens=20)])
    first.start_weight_update()
    second = client(server, warm_folder)
    second.load(decoder, 1)
    np.testing.assert_array_equal(
        run(second, [request(tokens=20)])[RolloutId(0, 0)].response_ids, expected[RolloutId(0, 0)].response_ids
    )


def test_what_the_server_ends_by_itself_is_not_taken_for_a_response(server: VllmProcess, warm_folder: Path) -> None:
    engine = client(server, warm_folder, max_rows=8)
    engine.load(ModelFolder(warm_folder).decoder(), 1)
    with pytest.raises(WorkerLost, match="ended a rollout that it was not asked to end"):
        for _ in range(20):  # until one of them is still there when somebody else ends all
            for group in range(8):
                engine.submit(replace(request(group, 90), sampling=Sampling(2.0)))
            engine._pass()
            engine._ask("/abort_requests", {})
            for _ in engine.finished():
                pass


def served(model: Path, server: VllmProcess, **changes: Any) -> Any:
    engine = {"kind": "vllm", "max_rows": 32, "servers": [server.address]}
    return recipe(model, **{"engine": engine, **changes})


def test_four_steps(server: VllmProcess, warm_folder: Path, tmp_path: Path) -> None:
    assert train(served(warm_folder, server), tmp_path / "run").complete
    rows = rows_of(tmp_path / "run")
    assert [r["step"] for r in rows] == [0, 1, 2, 3, 4]
    learnt = [r for r in rows[1:] if "mismatch/logprob_gap/max" in r]
    assert len(learnt) >= 3 and max(r["mismatch/logprob_gap/max"] for r in learnt) < 1e-5
    whole(tmp_path / "run")


@pytest.mark.full
def test_a_server_that_is_killed_and_started_again(
    warm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before the second step: nothing is sampled from the weights a server begins with."""
    steps, step = [], Training.train_step
    with vllm_process(warm_folder, tmp_path / "said") as server:
        server.wait()

        def killing(training: Training, *args: Any) -> Any:
            steps.append(1)
            if len(steps) == 2:
                server.kill()
                server.start()
            return step(training, *args)

        monkeypatch.setattr(Training, "train_step", killing)
        assert train(served(warm_folder, server), tmp_path / "run").complete
    assert "another takes its place" in capfd.readouterr().out
    rows = rows_of(tmp_path / "run")
    assert max(r["mismatch/logprob_gap/max"] for r in rows[1:] if "mismatch/logprob_gap/max" in r) < 1e-5
    whole(tmp_path / "run")


def test_weights_that_somebody_else_gave_are_not_sampled_from(server: VllmProcess, warm_folder: Path) -> None:
    mine, other = client(server, warm_folder), client(server, warm_folder)
    decoder = ModelFolder(warm_folder).decoder()
    mine.load(decoder, 1)
    other.load(decoder, 1)
    mine.submit(request())
    with pytest.raises(WorkerLost, match=r"samples from weights '.*', it was given '.*'"):
        next(mine.finished())
