"""Programs that a sandbox must survive, by what they try."""

__all__ = ["BOMBS", "FILES", "LOOPS", "REFUSED"]

LOOPS = {
    "a loop": "while True: pass",
    "a sleep": "import time; time.sleep(1000)",
    "a power": "print(9 ** 9 ** 9)",
    "deaf to signals": """
        import signal
        for n in range(1, 65):
            try: signal.signal(n, signal.SIG_IGN)
            except (OSError, ValueError): pass
        signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
        while True: pass
    """,
    "a thread that stays": "import threading, time; threading.Thread(target=time.sleep, args=(1000,)).start()\ntime.sleep(1000)",
    "a regular expression": "import re; re.match('(a+)+b', 'a' * 50)",
    "except everything": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
}

BOMBS = {
    "memory": "x = bytearray(2 << 30)",
    "memory, slowly": "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "digits": "x = 1 << (1 << 34)",
    "address space": "import mmap\nx = [mmap.mmap(-1, 1 << 28) for _ in range(100)]",
}

REFUSED = {
    "fork": "import os; os.fork()",
    "vfork and exec": "import subprocess; subprocess.run(['/bin/true'])",
    "a shell": "import os; assert os.system('true') == 0",
    "exec": "import os, sys; os.execv(sys.executable, ['python', '-c', 'print(1)'])",
    "a pool": "import multiprocessing; multiprocessing.Process(target=print).start()",
    "a daemon": "import os\nif os.fork() == 0:\n    os.setsid()\n    os.fork()",
    "a session": "import os; os.setsid()",
    "a socket": "import socket; socket.socket()",
    "a socket pair": "import socket; socket.socketpair()",
    "loopback": "import urllib.request; urllib.request.urlopen('http://127.0.0.1:1')",
    "killing the parent": "import os; os.kill(os.getppid(), 9)",
    "killing all": "import os; os.kill(-1, 9)",
    "killing the group": "import os; os.killpg(1, 9)",
    "tracing": "import ctypes; l = ctypes.CDLL(None, use_errno=True)\nassert l.ptrace(16, 1, 0, 0) == 0, ctypes.get_errno()",
    "mounting": "import ctypes; assert ctypes.CDLL(None).mount(b'x', b'/mnt', b'tmpfs', 0, 0) == 0",
    "namespaces": "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "root": "import os; os.setuid(0); os.seteuid(0); assert os.listdir('/root') is None",
    "memory files": "import os; os.memfd_create('x')",
    "priority": "import os; os.nice(-5)",
    "another's limits": "import resource, os; resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))",
    "more memory": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "io_uring": "import ctypes; assert ctypes.CDLL(None).syscall(425, 8, b'0' * 120) >= 0",
    "keys": "import ctypes; assert ctypes.CDLL(None).syscall(250, 0, 0, 0) >= 0",
    "bpf": "import ctypes; assert ctypes.CDLL(None).syscall(321, 0, b'0' * 120, 120) >= 0",
    "another's memory": "import ctypes, os; assert ctypes.CDLL(None).syscall(310, os.getppid(), 0, 0, 0, 0, 0) == 0",
}

FILES = {
    "shadow": "print(open('/etc/passwd').read())",
    "environment": "print(open('/proc/self/environ').read())",
    "the parent's environment": "import os; print(open(f'/proc/{os.getppid()}/environ').read())",
    "its own memory": "open('/proc/self/mem', 'rb').read(1)",
    "proc": "import os; print(os.listdir('/proc'))",
    "root": "import os; print(os.listdir('/'))",
    "tmp": "open('/tmp/escaped', 'w')",
    "shared memory": "open('/dev/shm/escaped', 'w')",
    "the library": "import os; open(os.path.join(os.path.dirname(os.__file__), 'escaped.py'), 'w')",
    "a symlink": "import os; os.symlink('/etc/passwd', 'link'); print(open('link').read())",
    "a hard link": "import os; os.link('/etc/passwd', 'link'); print(open('link').read())",
    "the way up": "print(open('../etc/passwd').read())",
    "a device": "import os; os.mknod('disk', 0o60666, os.makedev(8, 0))",
    "a pipe": "import os; os.mkfifo('pipe')",
    "descriptors": "import os\nfor n in range(3, 1000):\n    try: print(os.read(n, 100)); break\n"
    "    except OSError: pass\nelse: raise OSError",
}
