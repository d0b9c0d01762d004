"""What this machine can do: cores, bf16, and a C allocator that keeps its memory."""

import contextlib
import ctypes
import math
import os
import platform
from pathlib import Path

from longthink.errors import RecipeError
from longthink.recipe import Recipe

__all__ = ["cpu_name", "fast_bf16", "keep_memory", "resolve", "usable_cores"]

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3


def keep_memory() -> None:
    """Tell glibc to keep freed memory: a training step frees and asks for the same pages thousands of times.

    Worth 10 to 40 % of a step of a small model; elsewhere than on glibc nothing happens.
    """
    with contextlib.suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
        libc.mallopt(M_TOP_PAD, 64 << 20)


def cpu_name() -> str:
    """The processor's model, as the kernel tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def fast_bf16() -> bool:
    """True where this CPU multiplies bf16 in hardware (AVX512-BF16 or AMX); elsewhere bf16 is emulated and slow."""
    import torch  # here and below, for what only asks about cores

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def usable_cores() -> int:
    """Cores this process may use: its affinity, and a container's quota where there is one."""
    cores = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, math.ceil(int(quota) / int(period)))
    return max(1, cores)


def resolve(recipe: Recipe) -> Recipe:
    """The recipe with every `auto` and 0 replaced by what this machine gives. Raises: RecipeError for an absent GPU.

    The resolved values are written beside the run and read back on resume: they decide the last bits.
    """
    import torch

    model, cluster = recipe.model, recipe.cluster
    cuda = model.device.startswith("cuda")
    far = cluster.place == "ray"  # then this machine need not have what the workers have
    if cuda and not far and not torch.cuda.is_available():
        raise RecipeError(f"model.device is {model.device!r}, but torch sees no GPU; set model.device = 'cpu'")
    cores = usable_cores()
    alone = cuda or (cluster.samplers and not cluster.shard)
    learners = cluster.learners or (1 if alone else min(cores, recipe.rollout.prompts))
    dtype = model.dtype
    if dtype == "auto":
        dtype = "bfloat16" if cuda or fast_bf16() else "float32"
    at_once = learners + cluster.samplers if recipe.rollout.staleness else max(learners, cluster.samplers)
    threads = cluster.threads or (1 if far else max(1, cores // at_once))
    cluster = cluster.model_copy(update={"learners": learners, "threads": threads})
    return recipe.model_copy(update={"model": model.model_copy(update={"dtype": dtype}), "cluster": cluster})
