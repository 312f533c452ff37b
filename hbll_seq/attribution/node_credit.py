"""`credit`: one outcome per sequence, attributed to every node of the tree; three kinds of it."""

import copy
import math
from typing import Any, Literal

import torch
from torch import Tensor

from hbll_seq import losses
from hbll_seq.attribution.background import Background, Others, background_of
from hbll_seq.attribution.input_gradient import node_gradients
from hbll_seq.attribution.node_knockout import node_knockout
from hbll_seq.attribution.posterior_over_depth import depth_kl
from hbll_seq.attribution.posterior_over_time import time_kl
from hbll_seq.attribution.question import Question, ask, flag_or_auto, most_rolled, steps_of, unit_of
from hbll_seq.attribution.result import Credit, together
from hbll_seq.attribution.state_maps import DepthMaps, StateMaps, TimeMaps
from hbll_seq.attribution.withheld import DONORS, WITHHELD, StandIn, stand_ins
from hbll_seq.data.scalars import choice, integer, integer_or_auto
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model
from hbll_seq.models.layered import Layered
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.tree import Tree

KINDS = ("posterior", "knockout", "gradient")


def credit(
    model: Model, x: Any, y: Any = None, *, kind: Literal["posterior", "knockout", "gradient"] = "knockout",
    outcome: int | None = None, block_size: int | str = "auto",
    exact: bool | Literal["auto"] = "auto", background: Any = None,
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
        x: `(B, T)` symbols, `(B, T, D)` features, or `(B, *input_shape)` for layered models; where lengths differ
            `(x, lengths)` or a list, as for `fit`. What stands after an outcome's step is not looked at.
        y: target of the outcome, `(B,)` classes or `(B, C)` values; or one a step, `(B, T)` or `(B, T, C)`.
            None for next-step models: the symbol after the outcome step.
        kind: see above.
        outcome: step whose loss is explained; None for the last that has a target. Ignored for one label a sequence.
        block_size: steps a block, or "auto". Ignored for layered models.
        exact: of the knockout. "auto": roll every changed state up to 128 blocks, where that takes at most about twice
            the time; for more blocks go the fast way, check a sample against the real cell, and roll all where it
            disagrees. True: roll all (n^2 / 2 block rolls for n blocks). False: the fast way, whatever the sample
            says. `Credit.method` and `Credit.error` tell what was done and found.
        background: sequences of the kind the model was trained on, in any form that `fit` takes as x, for what
            "mean" and "swap" put in. Of one long sequence, such as a text, windows as long as x are cut. None: the
            batch itself. A batch of one sequence needs it, and is warned without.
        withheld: selects the replacement for a withheld input. "mean": the mean embedded input of the background;
            "zero": zeros; "skip": none, the state stays as it was before; "swap": the input of another sequence of
            the background, the median over `donors` of them (a shorter one is repeated); "mean+swap": the average of
            both changes, `donors + 1` times the work. None: "mean+swap" where each sequence has `donors` others,
            else "mean"; "skip", the only one there is, for layered models.
        donors: sequences swapped in, at most as many as there are others.
        rolled: states that the fast knockout rolls where two nodes join, or "auto" for max(14, 2 ceil(log2 n)).

    Returns:
        See `Credit`.

    Raises:
        InputError: wrong shapes, an unknown kind, an outcome outside the sequence, a target that is missing, or a
            bidirectional model: its state at a boundary has not read the past alone.
    """
    _check(model, kind, withheld, donors, rolled, exact)
    asked = ask(model, x, y, outcome)
    rows, steps = len(asked.lengths), asked.x.shape[1]
    block = 1 if isinstance(model, Layered) else steps_of(block_size, steps, rows)
    model, source = copy.deepcopy(model).double().eval(), None
    model.zero_grad()
    if background is not None and (isinstance(model, Layered) or kind != "knockout"):
        raise InputError("background", "given", "None for layered models and other kinds: no input is replaced there")
    if isinstance(model, SequenceModel) and kind == "knockout":
        source = background_of(background, model, asked.x, asked.lengths, withheld)
    where = "x" if background is None else "background"
    parts = []
    for question in asked.questions:
        maps, tree, by = _prepare(model, question, block, source, withheld, donors, where)
        found = _attribute(maps, model, question, tree, kind, by, exact, most_rolled(rolled, tree.levels))
        parts.append((question.rows, found))
    return parts[0][1] if len(parts) == 1 else together(parts)


def _check(model: Model, kind: str, withheld: str | None, donors: int, rolled: int | str, exact: bool | str) -> None:
    """Refuse arguments that do not fit, before any work starts; `ask` and `background_of` check the others."""
    if not isinstance(model, SequenceModel | Layered):
        raise InputError("model", type(model).__name__, "a SequenceModel or a Layered")
    if isinstance(model, SequenceModel):
        model.check_causal("model")
    choice("kind", kind, KINDS)
    if withheld is not None:
        choice("withheld", withheld, WITHHELD)
    if isinstance(model, Layered) and withheld not in (None, "skip"):
        raise InputError("withheld", repr(withheld), '"skip" for layered models')
    integer("donors", donors)
    integer_or_auto("rolled", rolled)
    flag_or_auto("exact", exact)


def _prepare(
    model: Model, question: Question, block: int, source: Background | None, withheld: str | None, donors: int,
    where: str,
) -> tuple[StateMaps, Tree, tuple[StandIn, ...]]:  # fmt: skip
    """Run the model once; return its states between blocks (modules), the tree over them, and what stands in."""
    if isinstance(model, Layered):
        return DepthMaps(model.eval(), question.x), Tree(len(model.layers), 1), stand_ins(withheld, donors, 0, "skip")
    assert isinstance(model, SequenceModel)
    x, count = question.x, len(question.x) - 1
    others = None if source is None else Others(model, source, x, donors)
    if others is not None:
        count = others.count
    block = min(block, x.shape[1])
    maps = TimeMaps(model, x, block, others)
    return maps, Tree(x.shape[1], block), stand_ins(withheld, donors, count, "mean+swap", where)


def _attribute(
    maps: StateMaps, model: Model, question: Question, tree: Tree, kind: str, by: tuple[StandIn, ...],
    exact: bool | str, most: int,
) -> Credit:  # fmt: skip
    """Attribute outcomes at one step."""

    def loss(states: Tensor) -> Tensor:
        return _loss(maps, model, question, states)

    unit, error = unit_of(model), math.nan
    if kind == "knockout":
        nodes, method, error = node_knockout(maps, by, loss, exact, most)
    elif kind == "posterior":
        nodes, unit, method = _posterior(model, question, tree), "nats", "messages"
    else:
        nodes, unit, method = node_gradients(model, question, tree), f"{unit} per unit of input", "backpropagation"
    normal, step = loss(maps.states[-1]), question.outcome
    return Credit(
        kind, tuple(values.contiguous() for values in nodes), normal, tree.block, tree.steps, step, unit,
        "module" if isinstance(model, Layered) else "step", torch.full((len(normal),), step + 1), method, error,
    )  # fmt: skip


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
