"""vLLM servers as somebody who trains would start them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SETTINGS = ("--enforce-eager", "--skip-tokenizer-init", "--enable-scale-out", "--no-enable-chunked-prefill")
TRAINING = ("--logprobs-mode", "processed_logprobs", "--weight-transfer-config", '{"backend": "longthink"}')


def free_port() -> int:
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return int(made.getsockname()[1])


class VllmProcess:
    """A server of a model folder on this machine; `start` it again after `kill`."""

    def __init__(self, model: Path, said: Path, *, training: tuple[str, ...] = TRAINING) -> None:
        self.port, self.said = free_port(), said
        self.address = f"http://127.0.0.1:{self.port}"
        self.words = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(model)]
        self.words += ["--host", "127.0.0.1", "--port", str(self.port), "--dtype", "float32", *SETTINGS, *training]
        self.environment = {
            **os.environ,
            "VLLM_SERVER_DEV_MODE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
        }
        self.start()

    def start(self) -> None:
        with self.said.open("ab") as file:
            self.process = subprocess.Popen(
                self.words, env=self.environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def wait(self, seconds: float = 300.0) -> None:
        """Until it answers."""
        end = time.monotonic() + seconds
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=5.0):
                    return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, self.said.read_text()[-3000:]
                assert time.monotonic() < end, self.said.read_text()[-3000:]
                time.sleep(0.5)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):  # it ended by itself
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def vllm_process(model: Path, said: Path, **settings: tuple[str, ...]) -> Iterator[VllmProcess]:
    made = VllmProcess(model, said, **settings)
    try:
        yield made
    finally:
        made.kill()
