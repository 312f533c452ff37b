"""Draft and verify: a short path of a GPT proposes symbols, the full path checks them all in one call.

Greedy and exact: every symbol of the text is the full path's own most likely one, so the text is the same as without a
draft. A proposal that is accepted saves a call of the full path.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hbll_seq.data.scalars import integer
from hbll_seq.errors import InputError, warn
from hbll_seq.models.gpt import GPT, Decoder
from hbll_seq.models.layered import Path


class Draft(NamedTuple):
    """A generated text, with counts of proposals and calls.

    Attributes:
        text: prompt and continuation, as text or as a tensor, whichever the prompt was.
        proposed: symbols the draft proposed.
        accepted: those the check agreed with.
        calls: calls of the checking path.
    """

    text: Any
    proposed: int
    accepted: int
    calls: int


@torch.no_grad()
def draft_and_verify(
    model: GPT, prompt: str | Tensor, length: int, *, draft: Path = "first", path: Path = "full", ahead: int = 4
) -> Draft:
    """Continue a prompt greedily along `path`, with proposals by the shorter path `draft`.

    Args:
        model: a GPT trained for every path (rule "hbll" with `paths="any"`). After training for the full path alone
            drafts are poor: the text is still right, nothing is saved, and a warning says so.
        prompt: text (needs `symbols`) or a 1-D int64 tensor.
        length: symbols to add, >= 1; prompt and continuation fit in the context.
        draft: the path that proposes.
        path: the path that decides.
        ahead: symbols proposed before each check.

    Raises:
        InputError: a prompt or length that does not fit the context, an unknown path, or `ahead` below one.
    """
    if not isinstance(model, GPT):
        raise InputError("model", type(model).__name__, "a GPT")
    ahead = integer("ahead", ahead)
    ids = model.begin(prompt, length)
    if len(ids) + length > model.context:
        raise InputError("length", f"{length} after a prompt of {len(ids)}", f"at most {model.context} in all")
    if model.trained_for == "full" and model.path(draft) != model.path("full"):
        warn(
            'this GPT was trained for its full path alone, so its drafts are poor; train it with paths="any"',
            UserWarning,
        )
    device = next(model.parameters()).device
    out: list[int] = ids.tolist()
    end = len(out) + length
    small, large = Decoder(model, draft), Decoder(model, path)
    proposed = accepted = calls = 0

    def read(decoder: Decoder, symbols: list[int]) -> list[int]:
        """Return the most likely symbol after each of `symbols`."""
        best: list[int] = decoder.extend(torch.tensor([symbols], device=device))[0].argmax(-1).tolist()
        return best

    while len(out) < end:
        guesses: list[int] = []
        for _ in range(min(ahead, end - len(out) - 1)):  # the check itself adds one
            guesses.append(read(small, (out + guesses)[small.read :])[-1])
        checked = read(large, (out + guesses)[large.read :])[-len(guesses) - 1 :]
        calls += 1
        agreed = 0
        while agreed < len(guesses) and guesses[agreed] == checked[agreed]:
            agreed += 1
        out += checked[: agreed + 1]  # what was agreed on, and the decider's own next symbol
        proposed, accepted = proposed + len(guesses), accepted + agreed
        large.back(min(large.read, len(out) - 1))
        small.back(min(small.read, len(out) - 1))
    return Draft(model.finish(torch.tensor(out), prompt), proposed, accepted, calls)
