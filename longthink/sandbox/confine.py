"""What one process can give up on Linux: limits, capabilities, users, namespaces, file access, system calls.

Standard library alone, through ctypes; every step is irreversible for the process that takes it. Works as root
and as an ordinary user. Each function raises OSError where the kernel refuses.
"""

import ctypes
import os
import platform
import resource
import signal
import struct
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

__all__ = [
    "clear_capabilities",
    "die_with_parent",
    "drop_user",
    "filter_calls",
    "filter_template",
    "mount_scratch",
    "new_namespaces",
    "restrict_files",
    "ruleset",
    "set_limits",
]

libc = ctypes.CDLL(None, use_errno=True)
PDEATHSIG, KEEPCAPS, NO_NEW_PRIVS, SECCOMP, FILTER_MODE = 1, 8, 38, 22, 2
CAP_DAC_READ_SEARCH = 1 << 2
NEWNS, NEWIPC, NEWUSER, NEWNET, CLONE_THREAD = 0x20000, 0x8000000, 0x10000000, 0x40000000, 0x10000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE, MNT_DETACH = 2, 4, 8, 0x4000, 0x40000, 2
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # Landlock's calls have these numbers everywhere


def check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def die_with_parent() -> None:
    """SIGKILL when the parent ends. A change of user clears this, so it comes after."""
    check(libc.prctl(PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl(PR_SET_PDEATHSIG)")


def set_limits(memory: int, file_bytes: int, seconds: int, files: int = 64) -> None:
    """Hard limits: bytes of address space, bytes a file, seconds of CPU, open files; no core dumps."""
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_NOFILE: files,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for limit, most in limits.items():
        _, hard = resource.getrlimit(limit)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))


def drop_user(uid: int) -> None:
    """Become another user and group without supplementary groups; only root can. `clear_capabilities` must follow."""
    check(libc.prctl(KEEPCAPS, 1, 0, 0, 0), "prctl(PR_SET_KEEPCAPS)")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def clear_capabilities(*, keep_reading: bool = False) -> None:
    """Give up every capability, those of a user namespace included; perhaps but the one to read what others own.

    That one is for another user's Python library, where `restrict_files` says what can be read.
    """
    kept = CAP_DAC_READ_SEARCH if keep_reading else 0
    header, sets = struct.pack("Ii", 0x20080522, 0), struct.pack("6I", kept, kept, 0, 0, 0, 0)
    check(libc.capset(header, sets), "capset")


# -- namespaces -----------------------------------------------------------------------------------------------------


def new_namespaces() -> None:
    """Own mounts, network and IPC: directly as root, through a user namespace otherwise."""
    wanted = NEWNS | NEWIPC | NEWNET
    if os.geteuid() == 0 and libc.unshare(wanted) == 0:
        check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount(MS_PRIVATE)")
        return
    uid, gid = os.geteuid(), os.getegid()
    check(libc.unshare(wanted | NEWUSER), "unshare")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
    Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None), "mount(MS_PRIVATE)")


def mount_scratch(path: str, uid: int, num_bytes: int) -> None:
    """An empty file system in memory at `path`, of bounded size, for this mount namespace only."""
    libc.umount2(path.encode(), MNT_DETACH)  # what an earlier job left, if anything
    options = f"size={num_bytes},nr_inodes=1024,mode=700,uid={uid},gid={uid}".encode()
    check(libc.mount(b"scratch", path.encode(), b"tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options), "mount(tmpfs)")


# -- Landlock: which files ------------------------------------------------------------------------------------------

READ_FILE, READ_DIR, WRITE_FILE, TRUNCATE = 1 << 2, 1 << 3, 1 << 1, 1 << 14
NO_LINKS = ~(1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13)  # devices, sockets, pipes, symlinks, moves between folders


def ruleset(readable: Iterable[str], writable: Iterable[str], devices: Iterable[str]) -> int:
    """A Landlock ruleset: files below `readable` can be read, below `writable` anything but links and devices.

    Everything else is refused, TCP and signals to others too where the kernel is new enough.
    """
    abi = check(libc.syscall(CREATE_RULESET, None, 0, 1), "landlock")
    every = (1 << (13 if abi < 2 else 14 if abi < 3 else 15 if abi < 5 else 16)) - 1
    attributes = struct.pack("QQQ", every, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    rules = check(libc.syscall(CREATE_RULESET, attributes, size, 0), "landlock_create_ruleset")
    for paths, access in ((readable, READ_FILE | READ_DIR), (writable, every & NO_LINKS), (devices, READ_FILE | WRITE_FILE)):
        for path in paths:
            _allow(rules, path, access & every)
    return rules


def _allow(rules: int, path: str, access: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    if not os.path.isdir(path):
        access &= READ_FILE | WRITE_FILE | TRUNCATE
    try:
        rule = struct.pack("=Qi", access, place)
        check(libc.syscall(ADD_RULE, rules, 1, rule, 0), f"landlock_add_rule({path})")
    finally:
        os.close(place)


def restrict_files(rules: int) -> None:
    """Put a ruleset into force for this process."""
    check(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    check(libc.syscall(RESTRICT_SELF, rules, 0), "landlock_restrict_self")


# -- seccomp: which system calls --------------------------------------------------------------------------------------

ALLOWED = {  # name: number on x86-64 and on aarch64, None where there is none; the busiest first
    "read": (0, 63), "write": (1, 64), "futex": (202, 98), "mmap": (9, 222), "munmap": (11, 215), "brk": (12, 214),
    "madvise": (28, 233), "mprotect": (10, 226), "mremap": (25, 216), "close": (3, 57), "fstat": (5, 80),
    "newfstatat": (262, 79), "openat": (257, 56), "lseek": (8, 62), "clock_gettime": (228, 113), "getrandom": (318, 278),
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132),
    "getdents64": (217, 61), "open": (2, None), "stat": (4, None), "lstat": (6, None), "poll": (7, None), "select": (23, None),
    "access": (21, None), "pipe": (22, None), "dup2": (33, None), "pause": (34, None), "alarm": (37, None),
    "getpgrp": (111, None), "getdents": (78, None), "rename": (82, None), "mkdir": (83, None), "rmdir": (84, None),
    "creat": (85, None),
    "unlink": (87, None), "readlink": (89, None), "utime": (132, None), "time": (201, None), "utimes": (235, None),
    "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66), "sched_yield": (24, 124),
    "msync": (26, 227), "mincore": (27, 232), "dup": (32, 23), "dup3": (292, 24), "pipe2": (293, 59), "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115), "clock_getres": (229, 114), "gettimeofday": (96, 169), "getitimer": (36, 102),
    "setitimer": (38, 103), "times": (100, 153), "getrusage": (98, 165), "sysinfo": (99, 179), "uname": (63, 160),
    "getrlimit": (97, 163), "fcntl": (72, 25), "flock": (73, 32), "fsync": (74, 82), "fdatasync": (75, 83),
    "ftruncate": (77, 46), "truncate": (76, 45), "fadvise64": (221, 223), "getcwd": (79, 17), "chdir": (80, 49),
    "fchdir": (81, 50), "umask": (95, 166), "faccessat": (269, 48), "faccessat2": (439, 439), "readlinkat": (267, 78),
    "statx": (332, 291), "statfs": (137, 43), "fstatfs": (138, 44), "mkdirat": (258, 34), "unlinkat": (263, 35),
    "renameat": (264, 38), "renameat2": (316, 276), "utimensat": (280, 88), "pselect6": (270, 72), "ppoll": (271, 73),
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150), "getgroups": (115, 158),
    "getpgid": (121, 155), "getsid": (124, 156), "getpriority": (140, 141), "sched_getaffinity": (204, 123),
    "set_tid_address": (218, 96), "set_robust_list": (273, 99), "get_robust_list": (274, 100), "rseq": (334, 293),
    "restart_syscall": (219, 128), "close_range": (436, 436), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
CLONE, CLONE3, KILL, TGKILL, IOCTL, PRLIMIT = (56, 220), (435, 435), (62, 129), (234, 131), (16, 29), (302, 261)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
IOCTLS = (0x5401, 0x5413, 0x541B, 0x5450, 0x5451)  # is it a terminal and how wide, bytes waiting, close on exec
ALLOW, REFUSE, KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000  # REFUSE carries the errno
STAND_IN = 0x7FFF_FFF0  # no process has this number
LOAD, EQUAL, ANY_BIT, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER_AT, MACHINE_AT, ARGUMENTS_AT = 0, 4, 16
EPERM, ENOSYS = 1, 38


def call_filter(pid: int) -> bytes:
    """The program of the seccomp filter of process `pid`: no processes, sockets, signals to others, links or mounts."""
    index, machine = MACHINES[platform.machine()]

    def only(number: tuple[int, int], argument: int, test: int, values: Iterable[int]) -> list[tuple[int, int, int, int]]:
        """Allow this call if one of the values passes the test on an argument's low word."""
        tests = [step for value in values for step in ((test, 0, 1, value), (RETURN, 0, 0, ALLOW))]
        load, refuse = (LOAD, 0, 0, ARGUMENTS_AT + 8 * argument), (RETURN, 0, 0, REFUSE | EPERM)
        return [(EQUAL, 0, len(tests) + 2, number[index]), load, *tests, refuse]

    steps = [(LOAD, 0, 0, MACHINE_AT), (EQUAL, 1, 0, machine), (RETURN, 0, 0, KILL_PROCESS), (LOAD, 0, 0, NUMBER_AT)]
    for numbers in ALLOWED.values():
        if (number := numbers[index]) is not None:
            steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    steps += [(EQUAL, 0, 1, CLONE3[index]), (RETURN, 0, 0, REFUSE | ENOSYS)]  # so that libc falls back to clone
    steps += only(CLONE, 0, ANY_BIT, (CLONE_THREAD,))
    steps += only(KILL, 0, EQUAL, (pid,)) + only(TGKILL, 0, EQUAL, (pid,))
    steps += only(IOCTL, 1, EQUAL, IOCTLS) + only(PRLIMIT, 0, EQUAL, (0, pid))
    steps.append((RETURN, 0, 0, REFUSE | EPERM))
    return b"".join(struct.pack("HBBI", *step) for step in steps)


@lru_cache(1)
def filter_template() -> tuple[bytes, tuple[int, ...]]:
    """The filter of a process that is not there, and where its number stands in it: filters differ in nothing else."""
    program, stand_in = call_filter(STAND_IN), struct.pack("I", STAND_IN)
    places = [i for i in range(4, len(program), 8) if program[i : i + 4] == stand_in]
    return program, tuple(places)


def filter_calls() -> None:
    """Refuse (EPERM) every system call but those a computing program needs; threads may start, processes may not."""
    template, places = filter_template()
    own = bytearray(template)
    for place in places:
        own[place : place + 4] = struct.pack("I", os.getpid())
    program = bytes(own)
    steps = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(steps))
    check(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0), "prctl(PR_SET_NO_NEW_PRIVS)")
    check(libc.prctl(SECCOMP, FILTER_MODE, header, 0, 0), "prctl(PR_SET_SECCOMP)")
