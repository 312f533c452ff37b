"""Compilation of the fused rolls for this machine, and their execution on torch's threads."""

import ctypes
import functools
import re
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
import torch
from torch import Tensor

from hbll_seq.kernels import emit, emit_continuation, emit_outputs, emit_rows
from hbll_seq.kernels.emit_team import SIZES, UNITS, Target
from hbll_seq.kernels.recipes import Recipe

SMALL = 200_000  # multiply-adds below which a second thread does not pay
WIDE = 4_000  # multiply-adds of a thread in a time step, gates not counted, from which waiting for others pays
WAITS = 0.2  # fraction of the threads' time in long waits, from which the machine counts as busy
LEAST = 500  # microseconds of waits that do not count: a team that was just woken
PAUSE = 2.0  # seconds without sharing of units after a busy call
UNEVEN = 1.1  # times a fair share of rows: above it, threads share the units

Make = TypeVar("Make", bound=Callable[..., Any])
_lock = threading.RLock()  # LLVM's engine and the tables of compiled functions are shared by all threads


def _once(make: Make) -> Make:
    """Cache the results of `make` like `functools.cache`, with one call even if several threads ask at once."""
    cached = functools.cache(make)

    @functools.wraps(make)
    def one(*args: Any) -> Any:
        with _lock:
            return cached(*args)

    return cast(Make, one)


@_once
def target() -> Target:
    """Return vector width and registers of this CPU."""
    features, team = llvm.get_host_cpu_features(), _openmp() is not None
    if features.get("avx512f"):
        return Target(16, 32, team, bool(features.get("avx512bf16")))
    if features.get("avx"):
        return Target(8, 16, team)
    return Target(4, 32 if features.get("neon") else 16, team)


@_once
def _compiler() -> tuple[Any, Any]:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=3
    )
    return machine, llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)


def _compile(name: str, text: str) -> Callable[[str], int]:
    machine, engine = _compiler()
    # full width: LLVM would split vectors of 512 bits on some CPUs
    text = (
        text.replace("\n{", " #0\n{")
        + 'attributes #0 = { "prefer-vector-width"="512" "min-legal-vector-width"="512" }\n'
    )
    module = llvm.parse_assembly(text)
    module.verify()
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=3))
    builder.getModulePassManager().run(module, builder)
    engine.add_module(module)
    engine.finalize_object()
    address: Callable[[str], int] = engine.get_function_address
    return address


def _named(name: str) -> str:
    return f"hbll_{name}"  # unique in this process


@_once
def forward(recipe: Recipe, keep: bool, carry: bool, lookup: bool, marks: bool, bf16: bool) -> "Kernel":
    """Return the compiled forward roll, see `emit.forward`."""
    name = _named(f"forward_{recipe.name}_{keep:d}{carry:d}{lookup:d}{marks:d}{bf16:d}")
    text = emit.forward(recipe, target(), name, keep=keep, carry=carry, lookup=lookup, marks=marks, bf16=bf16)
    return Kernel(name, text, len(emit.FORWARD), emit.EVEN, target().width)


@_once
def backward(recipe: Recipe, dout: bool, panels: int, lookup: bool, factors: bool, bf16: bool) -> "Kernel":
    """Return the compiled backward roll, see `emit.backward`."""
    name = _named(f"backward_{recipe.name}_{dout:d}{panels}{lookup:d}{factors:d}{bf16:d}")
    text = emit.backward(recipe, target(), name, dout=dout, panels=panels, lookup=lookup, factors=factors, bf16=bf16)
    return Kernel(name, text, len(emit.BACKWARD), emit.EVEN, target().width * panels)


@_once
def outputs(recipe: Recipe) -> "Kernel":
    """Return the compiled roll without gradient, see `emit_outputs`."""
    name = _named(f"outputs_{recipe.name}")
    text = emit_outputs.outputs(recipe, target(), name)
    return Kernel(name, text, len(emit_outputs.OUTPUTS), emit_outputs.EVEN, target().width)


@_once
def continuation(recipe: Recipe, greedy: bool, narrowed: bool) -> Callable[..., None]:
    """Return the compiled loop over symbols, see `emit_continuation`."""
    name = _named(f"continuation_{recipe.name}_{greedy:d}{narrowed:d}")
    address = _compile(name, emit_continuation.continuation(recipe, target(), name, greedy=greedy, narrowed=narrowed))
    kinds: list[Any] = [ctypes.c_void_p] * len(emit_continuation.POINTERS)
    kinds += [ctypes.c_int64] * len(emit_continuation.NUMBERS)
    floats = [ctypes.c_float] * (1 + len(emit_continuation.NARROW) * narrowed)
    return ctypes.CFUNCTYPE(None, *kinds, *floats)(address(name))


@_once
def softmax() -> "Kernel":
    """See `emit_rows.softmax`."""
    name = _named("softmax")
    return Kernel(name, emit_rows.softmax(target(), name), len(emit_rows.SOFTMAX), 1)


@_once
def add_by_index() -> "Kernel":
    """See `emit_rows.add_by_index`."""
    name = _named("add_by_index")
    return Kernel(name, emit_rows.add_by_index(target(), name), len(emit_rows.ADD), 1)


class _Busy:
    until = 0.0  # by the monotonic clock


_busy = _Busy()


def shares_units(rows: int, units: int) -> bool:
    """Return whether threads share the units of every time step of a roll, and not its rows.

    They do not where other programs made them wait for each other lately. Results are the same, bit by bit.
    """
    return time.monotonic() >= _busy.until and units_pay(rows, units, torch.get_num_threads())


def units_pay(rows: int, units: int, threads: int) -> bool:
    """Return whether so many threads, with the cores to themselves, are faster when they share units."""
    even = emit.EVEN
    largest = -(-rows // (threads * even)) * even  # rows of the thread with most of them
    return threads > 1 and largest * threads > UNEVEN * rows and rows * units * units >= WIDE * threads


class Kernel:
    """A compiled function over all rows. Threads share the rows, each for all time steps, or the units.

    Args:
        name: the function's name.
        text: LLVM instructions.
        pointers: number of tensors it takes.
        even: a share of rows is a multiple of this.
        grain: a share of units is a multiple of this; 0 if threads can only share rows.
    """

    def __init__(self, name: str, text: str, pointers: int, even: int, grain: int = 0) -> None:
        self._even, self._grain = even, grain
        address = _compile(name, text)
        kinds: list[Any] = [ctypes.c_void_p] * pointers + [ctypes.c_int64] * len(SIZES)
        if grain:
            kinds += [ctypes.c_int64] * len(UNITS) + [ctypes.c_void_p]
        self._alone = ctypes.CFUNCTYPE(None, *kinds)(address(name))
        self._team = address(f"{name}_team") if target().team else 0

    def __call__(self, tensors: list[Tensor | None], steps: int, rows: int, units: int, every: int = 0) -> None:
        """Run the function.

        Args:
            tensors: contiguous CPU tensors in the emitter's order, float32 or int64 (index), None if not touched.
            steps, rows, units: K, N, d.
            every: time steps between marks or factors, for functions with these.
        """
        pointers = [0 if t is None else t.data_ptr() for t in tensors]
        threads, openmp = torch.get_num_threads(), _openmp()
        if openmp is None:
            self._alone(*pointers, steps, rows, units, every, 0, rows, *((0, units, 1, None) if self._grain else ()))
            return
        meeting = None  # the meeting place of threads that share units: a counter from zero
        if steps * rows * units * units < SMALL:
            threads = 1
        elif self._grain and shares_units(rows, units):
            meeting = torch.zeros(8, dtype=torch.int64)  # a cache line of its own
        elif rows <= self._even:
            threads = 1
        place = 0 if meeting is None else meeting.data_ptr()
        data = (ctypes.c_int64 * (len(pointers) + 5))(*pointers, steps, rows, units, every, place)
        start = time.monotonic()
        openmp(self._team, data, threads, 0)
        now = time.monotonic()
        if meeting is not None and int(meeting[1]) - LEAST > WAITS * threads * 1e6 * (now - start):
            _busy.until = now + PAUSE


@_once
def _openmp() -> Any:
    """Return `GOMP_parallel(function, data, threads, flags)` of the OpenMP library that torch itself uses, or None.

    Own threads would share the cores with torch's, which spin for a while after each of its operations: the same work
    then takes up to twice as long. Torch's own team has the cores to itself.
    """
    try:
        with open("/proc/self/maps") as maps:
            loaded = {line.split(None, 5)[-1].strip() for line in maps if "omp" in line}
    except OSError:
        return None
    names = [path for path in loaded if re.search(r"/lib(gomp|iomp5|omp)[^/]*\.so[^/]*$", path)]
    for path in sorted(names, key=lambda path: "torch" not in path):  # torch's own first
        library = ctypes.CDLL(path)
        if hasattr(library, "GOMP_parallel"):
            run = library.GOMP_parallel
            run.argtypes, run.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
            for name, function in (
                ("number", "omp_get_thread_num"),
                ("threads", "omp_get_num_threads"),
                ("time", "omp_get_wtime"),
            ):
                llvm.add_symbol(f"hbll_{name}", ctypes.cast(getattr(library, function), ctypes.c_void_p).value)
            return run
    return None
