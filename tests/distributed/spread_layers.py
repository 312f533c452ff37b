"""What the processes of `test_spans` do: a layer over spans beside the same layer in one process."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

import hbll_seq as hs
from hbll_seq import distributed as hd
from hbll_seq.distributed import trace

EXACT = {"execution": "sequential"}


class Leaky(nn.Module):
    """A cell of somebody's own."""

    input_size, hidden_size = 4, 6

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(10, 6)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        return 0.9 * h + 0.1 * torch.tanh(self.inner(torch.cat([x, h], 1)))


def layer(kind: str, bidirectional: bool = False, **options: Any) -> nn.Module:
    options = EXACT | options
    torch.manual_seed(1)
    shape = dict(batch_first=True, bidirectional=bidirectional)
    if kind == "relu":
        return hs.nn.RNN(4, 6, 2, nonlinearity="relu", dtype=torch.float64, **shape, **options)
    if kind == "MinGRU":
        return hs.nn.MinGRU(4, 6, 2, **shape, **options).double()
    if kind == "projected":
        return hs.nn.LSTM(4, 6, 2, proj_size=3, dtype=torch.float64, **shape, **options)
    if kind == "own":
        return hs.nn.Recurrent(Leaky(), batch_first=True, **options).double()
    return getattr(hs.nn, kind)(4, 6, 2, dtype=torch.float64, **shape, **options)


def states(net: Any, rows: int) -> list[Tensor]:
    count = net.num_layers * (1 + net.bidirectional)
    sizes = [getattr(net, "proj_size", 0) or net.hidden_size, net.hidden_size][: 1 + net.pair]
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(count, rows, n, generator=generator, dtype=torch.float64) for n in sizes]


def call(net: Any, x: Tensor, start: list[Tensor]) -> tuple[Any, list[Tensor]]:
    out, last = net(x, tuple(start) if net.pair else start[0])
    return out, list(last) if net.pair else [last]


def leaf(x: Tensor) -> Tensor:
    return x.clone().requires_grad_()


def whole(net: Any, head: nn.Module, x: Tensor, lengths: Tensor | None, each: Any) -> dict[str, Tensor]:
    """Return loss, outputs and gradients of one process."""
    x, start = leaf(x), [leaf(one) for one in states(net, len(x))]
    if lengths is None:
        out, last = call(net, x, start)
    else:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        found, last = call(net, packed, start)
        out, _ = nn.utils.rnn.pad_packed_sequence(found, batch_first=True, total_length=x.shape[1])
    values = each(head(out))
    inside = torch.ones_like(values, dtype=torch.bool) if lengths is None else within(lengths, x.shape[1])
    loss = values[inside].mean() + ends(last)
    return gradients(loss, net, head, out, x, start)


def ends(last: list[Tensor]) -> Tensor:
    """A loss of the last states that tells them apart."""
    return sum((one * torch.linspace(-1, 1, one.numel()).view_as(one)).sum() for one in last)


def within(lengths: Tensor, steps: int) -> Tensor:
    return torch.arange(steps)[None] < lengths[:, None]


def gradients(loss: Tensor, net: nn.Module, head: nn.Module, out: Tensor, x: Tensor, start: list[Tensor]) -> Any:
    named = dict([*net.named_parameters(), *head.named_parameters("head")])
    for p in named.values():
        p.grad = None
    loss.backward()
    found = {name: p.grad for name, p in named.items()} | {f"start {i}": s.grad for i, s in enumerate(start)}
    return found | {"loss": loss.detach(), "out": out.detach(), "x": x.grad}


def both(group: Any, kind: str, steps: int, spans: list[int] | None, *, rows: int = 3, ragged: bool = False,
         packed: bool = False, bidirectional: bool = False, tolerance: float | None = None, scale: float = 1.0,
         least: int = 2048, micro_batches: int | None = None, **options: Any) -> dict[str, Any]:  # fmt: skip
    """Return the largest difference of any value or gradient on this rank, what differs most, and the traffic."""
    trace.LEAST = least
    net = layer(kind, bidirectional, **options)
    head = nn.Linear(net(torch.zeros(1, 2, 4, dtype=torch.float64))[0].shape[2], 2, dtype=torch.float64)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "weight_hh" in name:
                p.mul_(scale)
    x = torch.randn(rows, steps, 4, dtype=torch.float64)
    lengths = torch.tensor([max(1, steps // (i + 1)) for i in range(rows)]) if ragged else None
    each = lambda out: out.square().mean(-1)
    wanted = whole(net, head, x, lengths, each)
    sizes = {"spans": spans} if spans else {"steps": steps}
    with hd.time_sharded(group, lengths=lengths, tolerance=tolerance, micro_batches=micro_batches, **sizes) as time:
        mine, start = leaf(time.take(x)), [leaf(one) for one in states(net, rows)]
        if packed:
            found, last = call(net, time.pack(mine), start)
            out, _ = nn.utils.rnn.pad_packed_sequence(found, batch_first=True, total_length=mine.shape[1])
        else:
            out, last = call(net, mine, start)
        inside = torch.ones(rows, steps, dtype=torch.bool) if lengths is None else within(lengths, steps)
        inside = time.take(inside)
        loss = time.mean(each(head(out)), inside) + ends(last)
        found = gradients(loss, net, head, out, mine, start)
    sent = time.group.traffic.copy()
    hd.average_gradients([*net.parameters(), *head.parameters()], group)
    found |= {name: p.grad for name, p in [*net.named_parameters(), *head.named_parameters("head")]}
    found["x"] = found["x"] / time.group.size
    wanted["x"], wanted["out"] = time.take(wanted["x"]), time.take(wanted["out"]) * inside[..., None]
    found["out"] = found["out"] * inside[..., None]
    off = {name: float((found[name] - wanted[name]).abs().max()) for name in wanted}
    name = max(off, key=off.__getitem__)
    return {"off": off[name], "what": name, "collectives": sent.collectives, "numbers": sent.numbers,
            "sends": sent.sends, "again": sent.again / max(sent.passes, 1)}  # fmt: skip


def evaluated(group: Any, kind: str, steps: int) -> float:
    """Return the largest difference of outputs and last state without gradient."""
    net = layer(kind)
    x = torch.randn(2, steps, 4, dtype=torch.float64)
    with torch.no_grad():
        out, last = net(x)
        with hd.time_sharded(group, steps=steps) as time:
            mine, end = net(time.take(x))
            at_end = time.at_ends(mine)
    pairs = [(mine, time.take(out)), (at_end, out[:, -1]), (end[0], last[0])]
    return max(float((a - b).abs().max()) for a, b in pairs)


def by_default(group: Any, kind: str, bidirectional: bool) -> float:
    """Return the largest difference of the outputs of a layer without options in training from PyTorch's."""
    torch.manual_seed(1)
    net = getattr(hs.nn, kind)(4, 8, batch_first=True, bidirectional=bidirectional)
    plain = getattr(nn, kind)(4, 8, batch_first=True, bidirectional=bidirectional)
    plain.load_state_dict(net.state_dict())
    x = torch.randn(3, 40, 4)
    wanted = plain(x)[0]
    with hd.time_sharded(group, steps=40) as time:
        return float((net(time.take(x))[0] - time.take(wanted)).detach().abs().max())


def half(group: Any) -> str:
    try:
        with hd.time_sharded(group, steps=8) as time:
            hs.nn.GRU(4, 8, batch_first=True, dtype=torch.bfloat16)(time.take(torch.zeros(1, 8, 4).bfloat16()))
        return "nothing"
    except hs.InputError as error:
        return error.argument


def one_target(group: Any, steps: int, ragged: bool) -> float:
    """Return the largest difference of gradients where each sequence has one target at its end."""
    net, head = layer("GRU"), nn.Linear(6, 3, dtype=torch.float64)
    x, y = torch.randn(3, steps, 4, dtype=torch.float64), torch.tensor([0, 2, 1])
    lengths = torch.tensor([steps, steps // 3, 1]) if ragged else torch.full((3,), steps)
    parameters = [*net.parameters(), *head.parameters()]
    out, _ = net(x)
    nn.functional.cross_entropy(head(out[torch.arange(3), lengths - 1]), y).backward()
    wanted = [p.grad.clone() for p in parameters]
    for p in parameters:
        p.grad = None
    with hd.time_sharded(group, steps=steps, lengths=lengths) as time:
        out, _ = net(time.take(x))
        nn.functional.cross_entropy(head(time.at_ends(out)), y).backward()
    hd.average_gradients(parameters, group)
    return max(float((p.grad - g).abs().max()) for p, g in zip(parameters, wanted, strict=True))


def aligned(group: Any, steps: int) -> float:
    """Return the largest difference of gradients of CTC, which needs the outputs of all time steps."""
    net, head = layer("LSTM", bidirectional=True), nn.Linear(12, 4, dtype=torch.float64)
    x, y = torch.randn(2, steps, 4, dtype=torch.float64), torch.tensor([[1, 2, 2], [3, 1, 0]])
    parameters = [*net.parameters(), *head.parameters()]

    def loss(out: Tensor) -> Tensor:
        scores = head(out).log_softmax(-1).transpose(0, 1)
        return nn.functional.ctc_loss(scores, y, torch.tensor([steps, steps]), torch.tensor([3, 2]))

    loss(net(x)[0]).backward()
    wanted = [p.grad.clone() for p in parameters]
    for p in parameters:
        p.grad = None
    with hd.time_sharded(group, steps=steps) as time:
        loss(time.whole(net(time.take(x))[0])).backward()
    hd.average_gradients(parameters, group)
    return max(float((p.grad - g).abs().max()) for p, g in zip(parameters, wanted, strict=True))


def wrapped(group: Any, steps: int) -> float:
    """Return the largest difference of gradients under DistributedDataParallel."""

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = layer("GRU"), nn.Linear(6, 2, dtype=torch.float64)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0])

    net, x = Tagger(), torch.randn(3, steps, 4, dtype=torch.float64)
    net(x).square().mean().backward()
    wanted = {name: p.grad.clone() for name, p in net.named_parameters()}
    net.zero_grad()
    outer = nn.parallel.DistributedDataParallel(net, process_group=group)
    with hd.time_sharded(group, steps=steps) as time:
        time.mean(outer(time.take(x)).square()).backward()
    return max(float((p.grad - wanted[name]).abs().max()) for name, p in net.named_parameters())


def errors(group: Any) -> list[str]:
    """Return what is refused, in words."""
    net, found = layer("GRU"), []
    size = dist.get_world_size(group)
    packed = nn.utils.rnn.pack_sequence([torch.zeros(4, 4, dtype=torch.float64)])
    for options, given in (
        ({"steps": 8, "spans": [4] * size}, 4), ({"spans": [4]}, 4), ({"steps": size - 1}, 1), ({"lengths": [4]}, 4),
        ({"steps": 8 * size, "lengths": [9 * size]}, 8), ({"steps": 8 * size}, 7), ({"tolerance": -1.0}, 4),
        ({"steps": 8 * size}, packed), ({"steps": 8 * size, "lengths": [8 * size]}, packed),
        ({"steps": 8 * size, "lengths": [4.5]}, 8), ({"steps": 8 * size, "lengths": [True]}, 8),
        ({"steps": 8 * size, "lengths": []}, 8), ({"steps": 8 * size, "lengths": [5]}, "all time steps"),
    ):  # fmt: skip
        try:
            with hd.time_sharded(group, **options) as time:
                if isinstance(given, str):
                    given = time.pack(torch.zeros(1, 8 * size, 4, dtype=torch.float64))
                net(torch.zeros(1, given, 4, dtype=torch.float64) if isinstance(given, int) else given)
            found.append("nothing")
        except hs.InputError as error:
            found.append(error.argument)
    return found


def parametrized(group: Any, micro_batches: int | None) -> tuple[float, int]:
    """Return the largest difference of gradients of a layer with a parametrized weight, a frozen one and a hook, and the
    hook's calls over spans.
    """
    net, calls = layer("GRU"), []
    nn.utils.parametrizations.weight_norm(net, "weight_hh_l0")
    net.bias_ih_l1.requires_grad_(False)
    net.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(4, 30, 4, dtype=torch.float64)
    net(x)[0].square().mean().backward()
    wanted = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()
    calls.clear()
    with hd.time_sharded(group, steps=30, micro_batches=micro_batches) as time:
        time.mean(net(time.take(x))[0].square()).backward()
    hd.average_gradients(list(net.parameters()), group)
    found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    return max(float((found[name] - one).abs().max()) for name, one in wanted.items()), len(calls)
