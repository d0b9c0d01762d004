"""Hostile programs: contained, the host unharmed, the right outcome, and the next program unaffected."""

import os
import shutil
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hostile import BOMBS, FILES, LOOPS, REFUSED

from longthink.errors import SandboxError
from longthink.sandbox.client import Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is Linux's")


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(lowest="none", memory=512 << 20) as made:
        if made.level == "none":
            pytest.skip(f"this machine isolates nothing: {made.facts['failures']}")
        yield made


def run(sandbox, source, stdin="", deadline_s=5.0, **options):
    return sandbox.run(textwrap.dedent(source), stdin, deadline_s=deadline_s, **options)


def healthy(sandbox):
    """The next program runs as if nothing had been."""
    return run(sandbox, "print(int(input()) + 1)", "41").stdout == b"42\n"


def test_a_program_reads_and_prints(sandbox):
    assert run(sandbox, "import sys\nfor line in sys.stdin: print(line.strip()[::-1])", "ab\ncd\n") == ("ok", b"ba\ndc\n", "")


def test_an_exit_status_and_an_exception_are_told(sandbox):
    assert run(sandbox, "print(1)\nexit()").status == "ok"
    assert run(sandbox, "exit(3)").status == "error"
    outcome = run(sandbox, "print('x')\n1 / 0")
    assert outcome == ("error", b"x\n", "ZeroDivisionError: division by zero")
    assert run(sandbox, "def (:").error == "SyntaxError: invalid syntax"


@pytest.mark.parametrize("name", LOOPS)
def test_what_does_not_end_is_ended(sandbox, name):
    assert run(sandbox, LOOPS[name], deadline_s=0.3).status == "timeout"
    assert healthy(sandbox)


@pytest.mark.parametrize("name", BOMBS)
def test_memory_is_bounded(sandbox, name):
    outcome = run(sandbox, BOMBS[name], deadline_s=60.0)
    assert outcome.status in ("limit", "error") and "rror" in outcome.error
    assert healthy(sandbox)


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_flood_of_output_is_cut(sandbox, stream):
    outcome = run(sandbox, f"import sys\nwhile True: sys.{stream}.write('x' * 65536)", max_output=100_000)
    assert outcome.status == "limit" and len(outcome.stdout) <= 100_000
    assert healthy(sandbox)


@pytest.mark.parametrize("name", REFUSED)
def test_the_kernel_refuses(sandbox, name):
    outcome = run(sandbox, REFUSED[name] + "\nprint('escaped')")
    assert b"escaped" not in outcome.stdout and outcome.status in ("error", "crash")
    assert healthy(sandbox)


def test_fork_bombs_leave_nothing(sandbox):
    run(sandbox, "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", deadline_s=0.3)
    assert not offspring(sandbox) and healthy(sandbox)


def offspring(sandbox):
    """The zygote's children, and processes like it that have lost their parent."""
    zygote = sandbox._process.pid
    name, found = Path(f"/proc/{zygote}/cmdline").read_bytes(), []
    for folder in Path("/proc").iterdir():
        try:
            parent = folder.name.isdigit() and int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in (1, zygote) and parent and (folder / "cmdline").read_bytes() == name:
                found.append(folder.name)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("name", FILES)
def test_files_are_out_of_reach(sandbox, name):
    if sandbox.level == "seccomp":
        pytest.skip("without Landlock files are in reach, and code is not scored unless told otherwise")
    outcome = run(sandbox, FILES[name])
    assert outcome.status == "error" and outcome.stdout == b"", outcome
    assert not Path("/tmp/escaped").exists() and not Path("/dev/shm/escaped").exists()
    assert healthy(sandbox)


def test_the_environment_is_empty(sandbox, monkeypatch):
    monkeypatch.setenv("SECRET", "xyzzy")
    with Sandbox(lowest="none") as fresh:
        assert b"xyzzy" not in run(fresh, "import os; print(dict(os.environ))").stdout


def test_scratch_is_bounded_and_private(sandbox):
    if not sandbox.facts["scratch"]:
        pytest.skip("no scratch folder at this level")
    assert run(sandbox, "open('a', 'w').write('hello'); print(open('a').read())").stdout == b"hello\n"
    assert run(sandbox, "import os; print(os.listdir('.'))").stdout == b"[]\n"
    filled = run(sandbox, "for n in range(100): open(str(n), 'wb').write(bytes(1 << 20))")
    assert filled.status == "error" and "No space left" in filled.error
    deep = "import os\nfor _ in range(100_000):\n    os.mkdir('d')\n    os.chdir('d')"
    assert run(sandbox, deep).status == "error"
    assert run(sandbox, "import os; os.chmod('.', 0)").status == "error"
    large = run(sandbox, "open('a', 'wb').write(bytes(1 << 25))")
    assert large.status in ("limit", "error")
    assert run(sandbox, "import os; print(os.listdir('.'))").stdout == b"[]\n"


def test_numpy_is_there(sandbox):
    assert run(sandbox, "import numpy; print(numpy.arange(3).sum())").stdout == b"3\n"


def test_threads_work(sandbox):
    source = """
        import threading
        found = []
        threads = [threading.Thread(target=found.append, args=(n,)) for n in range(4)]
        for t in threads: t.start()
        for t in threads: t.join()
        print(sorted(found))
    """
    assert run(sandbox, source).stdout == b"[0, 1, 2, 3]\n"


def test_deep_recursion_works(sandbox):
    assert run(sandbox, "def f(n): return n and 1 + f(n - 1)\nprint(f(20_000))").stdout == b"20000\n"


def test_lazily_imported_modules_are_found(sandbox):
    assert run(sandbox, "import colorsys, encodings.idna, html.parser; print('ok')").stdout == b"ok\n"


def test_text_of_any_kind_passes(sandbox):
    assert run(sandbox, "print(len(input()))", "\0\ud800é\U0001f600").stdout == b"4\n"
    assert run(sandbox, "import sys; sys.stdout.buffer.write(bytes(range(256)))").stdout == bytes(range(256))


def test_one_child_runs_many_inputs_as_far_as_it_gets(sandbox):
    twice = "n = int(input())\nprint(2 * n)\nif n == 3: "
    inputs = ["1", "2", "3", "4"]
    assert sandbox.run_many(twice + "pass", inputs, deadline_s=5) == [("ok", b"%d\n" % n, "") for n in (2, 4, 6, 8)]
    assert sandbox.run_many(twice + "exit()", inputs, deadline_s=5)[-1] == ("ok", b"8\n", "")
    assert sandbox.run_many(twice + "1 / 0", inputs, deadline_s=5)[2] == ("error", b"6\n", "ZeroDivisionError: division by zero")
    assert len(sandbox.run_many(twice + "import os; os._exit(0)", inputs, deadline_s=5)) == 2
    assert len(sandbox.run_many(twice + "\n while True: pass", inputs, deadline_s=0.5)) == 2
    assert [o.status for o in sandbox.run_many("print('x' * 99)", ["", ""], deadline_s=5, max_output=98)] == ["limit"] * 2
    assert sandbox.run_many("def (", ["", ""], deadline_s=5) == []
    assert healthy(sandbox)


FRAMES = [
    "{}",
    "[]",
    "3",
    '{"status": 3}',
    '{"status": "ok", "printed": 3, "why": ""}',
    '{"status": "great", "printed": "", "why": ""}',
    "[" * 9999,
]


@pytest.mark.parametrize("frame", FRAMES)
def test_a_program_that_answers_for_itself_says_nothing_else_than_its_output(sandbox, frame):
    forged = f"import os\nos.write(4, {frame!r}.encode() + b'\\n')\nos._exit(0)"
    assert sandbox.run_many(forged, ["", ""], deadline_s=5) == []
    assert healthy(sandbox)


def test_descriptors_and_processes_are_given_back(sandbox):
    healthy(sandbox)
    before = len(os.listdir("/proc/self/fd"))
    for source in ("1", "1 / 0", "while True: pass"):
        run(sandbox, source, deadline_s=0.2)
        sandbox.test(source, "assert f() == 1", deadline_s=0.2)
        sandbox.run_many(source, ["", ""], deadline_s=0.2)
    assert len(os.listdir("/proc/self/fd")) == before and not offspring(sandbox)


def test_a_lost_zygote_is_an_error_and_the_next_job_starts_another(sandbox):
    with Sandbox(lowest="none") as own:
        healthy(own)
        own._process.kill()
        own._process.wait()
        assert healthy(own)


def test_less_isolation_than_asked_for_is_refused(monkeypatch):
    with Sandbox(lowest="namespaces") as made:
        monkeypatch.setattr(made, "_message", lambda deadline: {"ready": "seccomp", "failures": {"landlock": "not there"}})
        with pytest.raises(SandboxError, match="isolates programs to level 'seccomp' only, 'namespaces' is asked for"):
            made.run("1", "", deadline_s=1.0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_is_as_safe():
    """The same tests, run by a user without rights."""
    python = shutil.which(f"python3.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no Python of this version that every user can run")
    command = [
        python,
        "-m",
        "pytest",
        __file__,
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "--noconftest",
        "-k",
        "not ordinary_user and not numpy",
    ]
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *(p for p in sys.path if p.endswith("-packages"))])
    env = {"PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1"}
    who = {"user": 65534, "group": 65534, "extra_groups": []}
    if subprocess.run([python, "-c", "import pytest, longthink"], env=env, capture_output=True, **who).returncode:
        pytest.skip("this checkout or its environment lies where other users cannot read")
    found = subprocess.run(command, env=env, capture_output=True, text=True, **who)
    assert found.returncode == 0 and found.stdout.count(".") > 50 and "s" not in found.stdout.split()[0], found.stdout[-3000:]


def test_no_socket_leads_out_even_where_one_listens(sandbox):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port = listening.getsockname()[1]
        outcome = run(sandbox, f"import socket; socket.create_connection(('127.0.0.1', {port}), 1); print('escaped')")
        assert outcome.status == "error" and not outcome.stdout
