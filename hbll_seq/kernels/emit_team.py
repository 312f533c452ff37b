"""The division of a compiled function among threads: each takes its own rows, or all rows and its own units.

Rows never meet, so threads that share rows run through all time steps without waiting. A single row, or a few, would
give all work to one thread. Then each thread takes some of the *units* of every time step (`begin` with `grain`), and
the threads wait for each other before they read each other's results (`meet`). That costs a fraction of a
microsecond per time step.

Each thread then also reads only its part of the weights. So wide layers gain more than the number of threads.
"""

from typing import Any

from llvmlite import ir

from hbll_seq.kernels.vector import F64, I32, I64, POINTER, Code

SIZES = ("steps", "rows", "units", "every", "first", "stop")
UNITS = ("left", "right", "threads")  # arguments if units can be shared; a pointer to the meeting place follows
PIECE = 8  # rows that a thread takes through all steps at once: their results stay in the cache
PATIENCE = 2000  # polls of the meeting place before a thread yields its core


class Target:
    """The properties of the machine that the code depends on.

    Args:
        width: numbers in a vector register.
        registers: vector registers.
        team: whether threads share a call.
        bf16: whether the CPU multiplies pairs of bfloat16 (AVX512-BF16).
    """

    def __init__(self, width: int, registers: int, team: bool = False, bf16: bool = False) -> None:
        self.width, self.registers, self.team, self.bf16 = width, registers, team, bf16


def begin(
    name: str, pointers: tuple[str, ...], target: Target, even: int, grain: int = 0
) -> tuple[ir.Module, Code, dict[str, Any]]:
    """Begin a module with an empty function `name(*pointers, *SIZES)`; threads share multiples of `even` rows.

    With `grain` the arguments continue, `(..., *UNITS, meeting)`: the function takes units left..right of the rows, and
    threads may share the units in multiples of `grain`.
    """
    module = ir.Module(name)
    sizes = (*SIZES, *UNITS) if grain else SIZES
    kinds = [POINTER] * len(pointers) + [I64] * len(sizes) + [POINTER] * bool(grain)
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
    if not grain:  # else other threads write values that this one reads
        for argument in function.args[: len(pointers)]:
            argument.add_attribute("noalias")
    if target.team:
        _add_team(module, name, len(pointers), even, grain)
    named = dict(zip((*pointers, *sizes, *(["meeting"] * bool(grain))), function.args, strict=True))
    return module, Code(ir.IRBuilder(function.append_basic_block("entry")), target.width), named


def meet(code: Code, a: dict[str, Any], before: Any) -> None:
    """Make all threads of the team wait for each other, if they share units.

    The meeting place is a counter that every thread increments; `before` is the number of earlier meetings. A thread
    that waits long yields its core to other programs, which may keep the last thread from arriving. The number after
    the counter is the sum of such waits, in microseconds.
    """
    b = code.b
    with b.if_then(b.icmp_unsigned("!=", b.ptrtoint(a["meeting"], I64), code.index(0))):
        all_here = b.mul(b.add(before, code.index(1)), a["threads"])
        b.atomic_rmw("add", a["meeting"], code.index(1), "acq_rel")
        entry, look, wait, done = b.block, *(b.append_basic_block(n) for n in ("look", "wait", "met"))
        b.branch(look)
        b.position_at_end(look)
        looks, since = b.phi(I64), b.phi(F64)
        looks.add_incoming(code.index(0), entry)
        since.add_incoming(F64(0.0), entry)
        here = b.load_atomic(a["meeting"], "acquire", 8, typ=I64)
        b.cbranch(b.icmp_unsigned(">=", here, all_here), done, wait)
        b.position_at_end(wait)
        _offer(code, looks, since, look)
        b.position_at_end(done)
        with b.if_then(b.icmp_unsigned(">", looks, code.index(PATIENCE))):
            waited = b.fsub(b.call(_declared(b.module, "hbll_time", F64), []), since)
            microseconds = b.fptosi(b.fmul(waited, F64(1e6)), I64)
            b.atomic_rmw("add", code.at(a["meeting"], code.index(2)), microseconds, "monotonic")


def _offer(code: Code, looks: Any, since: Any, look: Any) -> None:
    """Poll again; after many polls yield the core first. `since` is the time of the first yield."""
    b, short = code.b, code.b.block
    then, again = b.append_basic_block("offer"), b.append_basic_block("again")
    b.cbranch(b.icmp_unsigned(">=", looks, code.index(PATIENCE)), then, again)
    b.position_at_end(then)
    now = b.call(_declared(b.module, "hbll_time", F64), [])
    first = b.select(b.icmp_unsigned("==", looks, code.index(PATIENCE)), now, since)
    b.call(_declared(b.module, "sched_yield", I32), [])
    b.branch(again)
    b.position_at_end(again)
    started = b.phi(F64)
    started.add_incoming(since, short)
    started.add_incoming(first, then)
    looks.add_incoming(b.add(looks, code.index(1)), again)
    since.add_incoming(started, again)
    b.branch(look)


def _declared(module: ir.Module, name: str, result: Any) -> ir.Function:
    if name in module.globals:
        return module.get_global(name)
    return ir.Function(module, ir.FunctionType(result, []), name)


def _add_team(module: ir.Module, name: str, pointers: int, even: int, grain: int) -> None:
    """Write `{name}_team(data)`, the function that every thread of a team runs on its share.

    data, 64 bits each: the pointers, steps, rows, units, every, and with `grain` the meeting place, null if threads
    share rows. The functions `hbll_number` and `hbll_threads` return a thread's number and the number of threads,
    `hbll_time` returns seconds.
    """
    team = ir.Function(module, ir.FunctionType(ir.VoidType(), [POINTER]), f"{name}_team")
    b = ir.IRBuilder(team.append_basic_block("entry"))
    code, function = Code(b, 1), module.get_global(name)

    def word(i: int, kind: Any) -> Any:
        return b.load(b.gep(team.args[0], [code.index(i)], source_etype=I64), typ=kind)

    arguments = [*(word(i, POINTER) for i in range(pointers)), *(word(pointers + i, I64) for i in range(4))]
    rows, units = arguments[pointers + 1], arguments[pointers + 2]
    number, threads = (b.sext(b.call(_declared(module, f"hbll_{ask}", I32), []), I64) for ask in ("number", "threads"))

    def take_rows() -> None:
        whole = [code.index(0), units, code.index(1), ir.Constant(POINTER, None)] if grain else []
        first, stop = _share(code, rows, number, threads, even)
        pieces = _divided(code, b.sub(stop, first), code.index(PIECE))

        def piece(i: Any) -> None:
            low = b.add(first, b.mul(i, code.index(PIECE)))
            b.call(function, [*arguments, low, _smaller(code, b.add(low, code.index(PIECE)), stop), *whole])

        code.each(code.index(0), pieces, 1, piece)

    if not grain:
        take_rows()
    else:
        meeting = word(pointers + 4, POINTER)
        with b.if_else(b.icmp_unsigned("==", b.ptrtoint(meeting, I64), code.index(0))) as (by_rows, by_units):
            with by_rows:
                take_rows()
            with by_units:
                left, right = _share(code, units, number, threads, grain)
                b.call(function, [*arguments, code.index(0), rows, left, right, threads, meeting])
    b.ret_void()


def _share(code: Code, count: Any, number: Any, threads: Any, even: int) -> tuple[Any, Any]:
    """Return the range of this thread's share of `count` things; some threads may get none."""
    share = code.b.mul(_divided(code, _divided(code, count, threads), code.index(even)), code.index(even))
    first = _smaller(code, code.b.mul(number, share), count)
    return first, _smaller(code, code.b.add(first, share), count)


def _divided(code: Code, x: Any, y: Any) -> Any:
    """Return x / y, rounded up."""
    return code.b.sdiv(code.b.sub(code.b.add(x, y), code.index(1)), y)


def _smaller(code: Code, x: Any, y: Any) -> Any:
    return code.b.select(code.b.icmp_signed("<", x, y), x, y)
