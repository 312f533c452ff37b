"""`credit`: one outcome per sequence, attributed to every node of the tree; three kinds of it."""

import copy
from typing import Any, Literal

import torch
from torch import Tensor

from hbll_seq import losses
from hbll_seq.attribution.input_gradient import node_gradients
from hbll_seq.attribution.knockout import knocked_out
from hbll_seq.attribution.posterior_over_depth import depth_kl
from hbll_seq.attribution.posterior_over_time import time_kl
from hbll_seq.attribution.question import Question, ask, most_rolled, steps_of, unit_of
from hbll_seq.attribution.result import Credit
from hbll_seq.attribution.state_maps import DepthMaps, StateMaps, TimeMaps
from hbll_seq.attribution.withheld import DONORS, StandIn, combined, stand_ins
from hbll_seq.data.scalars import choice, flag, integer_or_auto
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model
from hbll_seq.models.layered import Layered
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.tree import Tree

KINDS = ("posterior", "knockout", "gradient")


def credit(
    model: Model, x: Any, y: Any = None, *, kind: Literal["posterior", "knockout", "gradient"] = "knockout",
    outcome: int | None = None, block_size: int | str = "auto", exact: bool = False,
    withheld: Literal["mean+swap", "mean", "skip", "swap", "zero"] | None = None, donors: int = DONORS,
    rolled: int | str = "auto",
) -> Credit:  # fmt: skip
    """Attribute one outcome per sequence to every node of the tree.

    The outcome is the loss at one step, or the loss of the sequence's label. There are three kinds of credit:

    * "knockout": the loss without the node's input minus the loss. Positive: the node helped. No gradient of any kind.
    * "posterior": KL(posterior || forward message) in nats at the node's midpoint: how far the outcome would move the
      state there (docs/method.md#the-probabilistic-reading). Never negative. No gradient crosses a block.
    * "gradient": the sum of |dL/du_t| over the node's steps, u_t the embedded input; backpropagation, for comparison.

    The model may have any cell and be trained by any rule, or elsewhere: `SequenceModel(D, V, cell=rnn,
    input_kind="features", task="sequence")` with its `readout` replaced adopts a plain torch module. In a layered model
    the modules are the blocks; a module is withheld by taking its input as its output.

    Args:
        model: weights, gradients and mode stay as they are; the computation runs in float64 on a copy.
        x: `(B, T)` symbols, `(B, T, D)` features, or `(B, *input_shape)` for layered models.
        y: target of the outcome, `(B,)` classes or `(B, C)` values; or one a step, `(B, T)` or `(B, T, C)`.
            None for next-step models: the symbol after the outcome step.
        kind: see above.
        outcome: step whose loss is explained; None for the last that has a target. Ignored for one label a sequence.
        block_size: steps a block, or "auto". Ignored for layered models.
        exact: roll every changed state (n^2 / 2 block rolls for n blocks): the reference for the fast knockout.
        withheld: selects the replacement for a withheld input. "mean": the mean embedded input of the batch; "zero":
            zeros; "skip": none, the state stays as it was before; "swap": the input of another sequence of the batch,
            the median over `donors` of them; "mean+swap": the average of both changes, `donors + 1` times the work.
            None: "mean+swap" in a batch of more than `donors` sequences, "mean" in a smaller one; "skip", the only
            one there is, for layered models.
        donors: sequences swapped in, at most one less than the batch has.
        rolled: states that the fast knockout rolls where two nodes join, or "auto" for max(12, 2 ceil(log2 n)).

    Returns:
        See `Credit`.

    Raises:
        InputError: wrong shapes, an unknown kind, an outcome outside the sequence, or a target that is missing.
    """
    _check(model, kind, withheld, rolled, exact)
    question = ask(model, x, y, outcome)
    replacements = stand_ins(withheld, donors, len(question.x), "skip" if isinstance(model, Layered) else "mean+swap")
    model = copy.deepcopy(model).double()
    model.zero_grad()
    maps, tree = _maps(model, question, block_size)
    loss, unit = _loss(maps, model, question, maps.states[-1]), unit_of(model)
    if kind == "knockout":
        most = None if exact else most_rolled(rolled, tree.levels)
        nodes = _knockout(maps, model, question, replacements, most, loss)
    elif kind == "posterior":
        nodes, unit = _posterior(model, question, tree), "nats"
    else:
        nodes, unit = node_gradients(model, question, tree), f"{unit} per unit of input"
    axis = "module" if isinstance(model, Layered) else "step"
    heights = tuple(values.contiguous() for values in nodes)
    return Credit(kind, heights, loss, tree.block, tree.steps, question.outcome, unit, axis)


def _check(model: Model, kind: str, withheld: str | None, rolled: int | str, exact: bool) -> None:
    """Refuse arguments that do not fit, before any work starts; `ask` and `stand_ins` check the others."""
    if not isinstance(model, SequenceModel | Layered):
        raise InputError("model", type(model).__name__, "a SequenceModel or a Layered")
    choice("kind", kind, KINDS)
    if isinstance(model, Layered) and withheld not in (None, "skip"):
        raise InputError("withheld", repr(withheld), '"skip" for layered models')
    integer_or_auto("rolled", rolled)
    flag("exact", exact)


def _maps(model: Model, question: Question, block_size: int | str) -> tuple[StateMaps, Tree]:
    """Run the model once; return its states between blocks (modules), and the tree over the steps (modules)."""
    if isinstance(model, Layered):
        return DepthMaps(model.eval(), question.x), Tree(len(model.layers), 1)
    assert isinstance(model, SequenceModel)
    block = steps_of(block_size, question.x)
    return TimeMaps(model, question.x, block), Tree(question.x.shape[1], block)


def _knockout(
    maps: StateMaps, model: Model, question: Question, replacements: tuple[StandIn, ...], most: int | None,
    loss: Tensor,
) -> list[Tensor]:  # fmt: skip
    """Return the changes of the outcome's loss `(B,)`, `(B, nodes)` a height."""
    changes = []  # by replacement, then by height: (nodes, B)
    for replacement in replacements:
        final = knocked_out(maps, replacement, most)
        changes.append([_loss(maps, model, question, states) - loss for states in final])
    return [combined(torch.stack(one), replacements).T for one in zip(*changes, strict=True)]


def _posterior(model: Model, question: Question, tree: Tree) -> list[Tensor]:
    """Return KL(posterior || forward message), `(B, nodes)` a height."""
    if isinstance(model, Layered):
        return depth_kl(model, question, tree)
    assert isinstance(model, SequenceModel)
    return time_kl(model, question, tree)


@torch.no_grad()
def _loss(maps: StateMaps, model: Model, question: Question, states: Tensor) -> Tensor:
    """Return the outcome's loss `(..., B)` from final states `(..., B, S)`."""
    out = maps.read(states)
    if out.ndim > states.ndim:  # a prediction a token: the last one is the outcome's
        out = out[..., -1, :]
    return losses.each(model.objective, out, question.y.expand(*out.shape[:-1], *question.y.shape[1:]))
