"""A recorder for the CPU that keeps to the rules of CUDA graphs (`hbll_seq.kernels.graphs`).

It writes down every operation with the very tensors it read and wrote, and replays them: what was read is read again where
it was, what was written is written there again. So it shows what real graphs would do to code that forgets that memory
is shared between replays; and like them it refuses to wait for a value, or to draw from a generator of the host.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

WAITS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default, torch.ops.aten.equal.default}


class _Log(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.entries = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in WAITS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        if any(isinstance(one, torch.Generator) for one in tree_flatten((args, kwargs))[0]):
            raise RuntimeError(f"a generator of the host inside a capture: {func}")
        out = func(*args, **kwargs)
        self.entries.append((func, args, kwargs, out))
        return out


class Recorder:
    """See the module docstring; counts what happens."""

    def __init__(self):
        self.recorded = self.replays = 0

    def warm(self, run):
        run()

    def record(self, run):
        with _Log() as log:
            result = run()
        self.recorded += 1

        def replay():
            self.replays += 1
            with torch.no_grad():
                for func, args, kwargs, out in log.entries:
                    new = func(*args, **kwargs)
                    returns = func._schema.returns
                    one = len(returns) == 1 and not isinstance(out, list | tuple)
                    pairs = zip([out], [new], returns, strict=True) if one else _pairs(out, new, returns)
                    for old, fresh, kind in pairs:
                        if not isinstance(old, torch.Tensor) or torch._is_zerotensor(old):  # no memory: forward mode's
                            continue
                        if kind.alias_info is None:
                            old.data.copy_(fresh)  # .data: saved for backward, and autograd need not know

        return replay, result


def _pairs(out, new, returns):
    if len(returns) == 1:  # a list of tensors
        return [(o, f, returns[0]) for o, f in zip(out, new, strict=True)]
    return list(zip(out, new, returns, strict=True))
