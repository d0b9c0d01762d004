"""A process that forks confined children, one a request: `python zygote.py`, started and killed by `sandbox.Sandbox`.

It has imported what programs commonly use, so a child costs a fork and not an interpreter. It never sees a program
or a test: a child reads those from a descriptor of its own, so nothing of one job is left in memory for the next.

Requests are packets of JSON with descriptors on a Unix socket: {"run": n, "mode": …} with stdin, stdout, stderr,
payload and perhaps a channel; {"kill": n}. Answers: {"ready": level, …}, {"end": n, "status": s, "at": t} with the exit status
of a child, negative for the signal that ended it, and the machine's monotonic clock.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import threading
import time
import traceback
from typing import Any

from longthink.sandbox import child, confine
from longthink.sandbox.names import PRELOADED

__all__ = ["LEVELS", "main"]

LEVELS = ("none", "seccomp", "landlock", "namespaces")  # each with all before it; limits and a deadline hold in all of them
SCRATCH = ("/mnt", "/media", "/srv")  # ordinary folders, covered by a private file system in memory where that is allowed
SCRATCH_BYTES = 16 << 20
SANDBOX_UID = 64_123  # of no user: what a program run by root becomes
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo", "/etc/localtime")


class Zygote:
    """The control socket, what was probed, and the children that run."""

    def __init__(self, control: socket.socket, memory: int, seconds: int) -> None:
        self.control, self.memory, self.seconds = control, memory, seconds
        self.children: dict[int, tuple[int, int]] = {}  # request -> pid and its descriptor
        self.scratch: str | None = None
        self.rules: int | None = None
        self.bare: int | None = None  # without the scratch folder, for what runs side by side
        self.uid: int | None = None
        self.reads = False  # whether children keep the right to read what others own
        self.level = "none"

    def start(self) -> dict[str, Any]:
        """Find the highest level that holds on this machine, by trying it."""
        failures = {}
        try:
            confine.new_namespaces()
            self.level = "namespaces"
        except OSError as error:
            failures["namespaces"], self.level = str(error), "landlock"
        self.uid = SANDBOX_UID if os.geteuid() == 0 else None
        while True:
            self.scratch = None
            report = self.open_files() or self.probe()
            if not report:
                return {"ready": self.level, "uid": self.uid, "scratch": self.scratch is not None, "failures": failures}
            if self.uid is not None and not self.reads:
                self.reads = True  # Python's library may lie where only its owner can read
            elif self.uid is not None:
                failures["user"], self.uid, self.reads = report, None, False  # as the user we are, then
            else:
                failures[self.level] = report
                self.level = LEVELS[LEVELS.index(self.level) - 1]

    def open_files(self) -> str:
        """Mount the scratch folder and make the ruleset all children share; why that fails, or nothing."""
        for rules in (self.rules, self.bare):
            if rules is not None:
                os.close(rules)
        self.rules = self.bare = None
        try:
            if self.level == "namespaces":
                places = (p for p in SCRATCH if os.path.isdir(p) and not any(s.startswith(p) for s in sys.path))
                if scratch := next(places, None):
                    confine.mount_scratch(scratch, os.geteuid() if self.uid is None else self.uid, SCRATCH_BYTES)
                    self.scratch = scratch
            if LEVELS.index(self.level) >= LEVELS.index("landlock"):
                readable = [*LIBRARIES, *(p for p in sys.path if os.path.isdir(p))]
                self.rules = confine.ruleset(readable, [self.scratch] if self.scratch else [], DEVICES)
                self.bare = confine.ruleset(readable, [], DEVICES)
        except OSError as error:
            return str(error)
        return ""

    def probe(self) -> str:
        """What goes wrong in a child that tries what it must not; empty where all is as it should be."""
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                try:
                    self.confine_child()
                    report = attempts(LEVELS.index(self.level), self.scratch)
                except BaseException as error:
                    report = f"{type(error).__name__}: {error}"
                os.write(writing, report.encode()[:500])
            os._exit(0)
        os.close(writing)
        os.waitpid(pid, 0)
        report = os.read(reading, 500).decode()
        os.close(reading)
        return report

    def confine_child(self) -> None:
        """Give up everything the level says, from a fresh child of this process."""
        os.setsid()
        level = LEVELS.index(self.level)
        os.chdir(self.scratch or "/")
        confine.set_limits(self.memory, SCRATCH_BYTES, self.seconds)
        if self.uid is not None:
            confine.drop_user(self.uid)
        if level or self.uid is not None:
            confine.clear_capabilities(keep_reading=self.reads and self.rules is not None)
        confine.die_with_parent()
        if self.rules is not None:
            confine.restrict_files(self.rules)
        if level >= LEVELS.index("seccomp"):
            confine.filter_calls()

    # -- requests ---------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Run children until the socket closes."""
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self.control.fileno():
                    packet, descriptors, _, _ = socket.recv_fds(self.control, 4096, 8)
                    if not packet:
                        return
                    request = json.loads(packet)
                    if "kill" in request:
                        self.kill(request["kill"])
                        continue
                    self.run(request, descriptors)
                    poll.register(self.children[request["run"]][1], select.POLLIN)
                else:
                    poll.unregister(descriptor)
                    self.reap(descriptor)

    def run(self, request: dict[str, Any], descriptors: list[int]) -> None:
        if self.scratch and not self.children and self.used():
            self.open_files()  # the rules name the old folder
        pid = os.fork()
        if pid == 0:
            self.become(request["mode"], descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        self.children[request["run"]] = pid, os.pidfd_open(pid)

    def used(self) -> bool:
        """Whether the scratch folder is not as it was: a program may have filled it or locked it."""
        try:
            return bool(os.listdir(self.scratch)) or os.stat(str(self.scratch)).st_mode & 0o777 != 0o700
        except OSError:
            return True

    def become(self, mode: str, descriptors: list[int]) -> None:
        """In the child: put the descriptors in their places, close the others, give up all rights, and work."""
        status = 1
        try:
            self.control.close()
            if mode == "session":
                self.rules, self.scratch = self.bare, None
            given = [*descriptors, *([self.rules] if self.rules is not None else [])]
            aside = [os.dup2(descriptor, 200 + i) for i, descriptor in enumerate(given)]
            for place, descriptor in enumerate(aside):
                os.dup2(descriptor, place)
            os.closerange(len(given), 1 << 16)
            if self.rules is not None:
                self.rules = len(descriptors)
            self.confine_child()
            if self.rules is not None:
                os.close(self.rules)
            status = child.MODES[mode](3, 4 if len(descriptors) > 4 else -1)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        except BaseException:
            with contextlib.suppress(BaseException):
                traceback.print_exc(limit=-3)
        finally:
            with contextlib.suppress(BaseException):
                sys.stdout.flush()
            os._exit(status & 255)

    def kill(self, number: int) -> None:
        if number in self.children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.children[number][0], signal.SIGKILL)

    def reap(self, descriptor: int) -> None:
        number, (pid, _) = next(item for item in self.children.items() if item[1][1] == descriptor)
        _, status = os.waitpid(pid, 0)
        os.close(descriptor)
        del self.children[number]
        end = {"end": number, "status": os.waitstatus_to_exitcode(status), "at": time.monotonic()}
        self.control.send(json.dumps(end).encode())


def attempts(level: int, scratch: str | None) -> str:
    """What a confined process could do after all, or cannot do though it should."""
    if level == 0:
        return ""
    wrong = []

    def refused(what: str, action: Any) -> None:
        try:
            action()
        except OSError:
            return
        wrong.append(f"{what} is possible")

    def fork() -> None:
        if os.fork() == 0:
            os._exit(0)

    refused("a new process", fork)
    refused("a socket", lambda: socket.socket().close())
    refused("a signal to another process", lambda: os.kill(os.getppid(), 0))
    if level >= LEVELS.index("landlock"):
        refused("reading /etc/passwd", lambda: os.close(os.open("/etc/passwd", os.O_RDONLY)))
        refused("reading /proc", lambda: os.close(os.open("/proc/self/environ", os.O_RDONLY)))
        refused("writing to /tmp", lambda: os.close(os.open("/tmp/longthink-probe", os.O_CREAT | os.O_WRONLY)))
    try:
        os.listdir(os.path.dirname(os.__file__))
    except OSError:
        wrong.append("reading Python's library is not possible")
    if scratch:
        with open(os.path.join(scratch, "probe"), "w") as file:
            file.write("x")
        os.unlink(file.name)
    return ", ".join(wrong)


def main() -> None:
    """Serve the socket on descriptor 0; argv: memory limit in bytes, seconds of CPU, modules to import first."""
    confine.die_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN if number == signal.SIGINT else signal.SIG_DFL)
    os.setsid()
    memory, seconds, modules = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    control = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    for module in (*PRELOADED, *modules):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    sources = sys.path[0]  # where longthink itself lies: programs have no business there
    sys.path[:] = [p for p in sys.path[1:] if p != sources or p.endswith("-packages")]
    sys.argv[:] = ["program"]
    atexit._clear()  # a child runs its program's own exit handlers and no others
    threading.stack_size(16 << 20)  # the default is as large as the main thread's
    confine.filter_template()  # made once: a child has other things to do
    zygote = Zygote(control, memory, seconds)
    ready = zygote.start()
    gc.collect()
    gc.freeze()
    control.send(json.dumps(ready).encode())
    zygote.serve()


if __name__ == "__main__":
    main()
