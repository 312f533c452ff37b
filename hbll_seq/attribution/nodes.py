"""`credit`: one call, three kinds."""

import copy
from typing import Any, Literal

import torch
from torch import Tensor

from hbll_seq.attribution.depth import depth_kl
from hbll_seq.attribution.input_gradient import step_gradient
from hbll_seq.attribution.knockout import knocked_out
from hbll_seq.attribution.posterior import node_kl
from hbll_seq.attribution.question import Question, ask, outcome_loss, unit_of
from hbll_seq.attribution.result import Credit
from hbll_seq.attribution.state_maps import Chain, DepthChain, TimeChain
from hbll_seq.attribution.withheld import DONORS, combined, ways_of
from hbll_seq.data.scalars import choice, flag, integer_or_auto
from hbll_seq.errors import InputError
from hbll_seq.models.base import Model
from hbll_seq.models.layered import Layered
from hbll_seq.models.recurrent import SequenceModel
from hbll_seq.training.arguments import check_model
from hbll_seq.tree import Tree, auto_block

KINDS = ("posterior", "knockout", "gradient")


def credit(
    model: Model,
    x: Any,
    y: Any = None,
    *,
    kind: Literal["posterior", "knockout", "gradient"] = "knockout",
    outcome: int | None = None,
    block_size: int | str = "auto",
    exact: bool = False,
    withheld: Literal["mean+swap", "mean", "skip", "swap", "zero"] | None = None,
    donors: int = DONORS,
    rolled: int | str = "auto",
) -> Credit:
    """What one outcome of each sequence is owed to: a number for every node of the tree.

    The outcome is the loss at one step, or of the sequence's label. Kinds:

    * "knockout": loss without the node's input minus the loss, for all nodes at once (`credit.knockout`). Positive:
      the node helped. No gradient of any kind. "Without" is said by `withheld`.
    * "posterior": KL(posterior || forward message) in nats at the node's midpoint, from the messages that the rule
      passes (`credit.posterior`): how far the outcome would move the state there. Never negative. No gradient
      crosses a block.
    * "gradient": sum of |dL/du_t| over the node's steps, u_t the embedded input; backpropagation through time, for
      comparison only.

    Works for a model trained by any rule and with any cell. A plain torch module, trained elsewhere, becomes one by
    `SequenceModel(D, V, cell=rnn, input_kind="features", task="sequence")` with its `readout` replaced. For layered
    models blocks are modules: withholding one leaves its input as its output.

    Args:
        model: weights, gradients and mode stay as they are; all is computed in float64 on a copy.
        x: `(B, T)` symbols, `(B, T, D)` features, or `(B, *input_shape)` for layered models.
        y: target of the outcome, `(B,)` classes or `(B, C)` values; or one a step, `(B, T)` or `(B, T, C)`.
            None for next-step models: the symbol after the outcome step.
        kind: see above.
        outcome: step whose loss is explained; None for the last that has a target. Ignored for one label a sequence.
        block_size: steps a block, or "auto". Ignored for layered models.
        exact: roll every changed state (n^2 / 2 block rolls): the reference for the fast knockout.
        withheld: what a node has instead of its input. "mean": the mean embedded input of the batch; "zero": zeros;
            "skip": nothing, it never happened, and the state after it is the state before it; "swap": the input of
            another sequence of the batch, the median over `donors` of them; "mean+swap": the average of the two
            (`credit.withheld` says why), which takes `donors + 1` times as long as "mean". None: "mean+swap" in a
            batch of more than `donors` sequences, otherwise "mean"; "skip" for layered models, which know no other.
        donors: sequences swapped in, at most one less than the batch has.
        rolled: states that the fast knockout rolls where two nodes join, or "auto" for max(12, 2 ceil(log2 n)).

    Returns:
        See `Credit`.

    Raises:
        InputError: wrong shapes, an unknown kind, an outcome outside the sequence, or a target that is missing.
    """
    check_model(model)
    choice("kind", kind, KINDS)
    if model.family == "layered" and withheld is not None and withheld != "skip":
        raise InputError("withheld", repr(withheld), '"skip" for layered models')
    exact, rolled = flag("exact", exact), integer_or_auto("rolled", rolled)
    question = ask(model, x, y, outcome)
    ways = ways_of(withheld, donors, len(question.x), "skip" if model.family == "layered" else "mean+swap")
    exact_model = copy.deepcopy(model).double()
    exact_model.zero_grad()
    chain: Chain
    if isinstance(exact_model, Layered):
        exact_model.eval()
        chain, block, steps, axis = DepthChain(exact_model, question.x), 1, len(exact_model.layers), "module"
    elif isinstance(exact_model, SequenceModel):
        block, steps, axis = blocks_of(question.x, block_size), question.x.shape[1], "step"
        chain = TimeChain(exact_model, question.x, block)
    else:
        raise InputError("model", type(model).__name__, "a SequenceModel or a Layered")
    loss = loss_of(chain, exact_model, question, chain.states[-1])
    tree = Tree(steps, block)
    unit = unit_of(model)
    if kind == "knockout":
        most = None if exact else rolled_of(rolled, tree.levels)
        changes = []  # of every way, at every height: (nodes, B)
        for way in ways:
            final = knocked_out(chain, way, most)
            changes.append([loss_of(chain, exact_model, question, states) - loss for states in final])
        nodes = [combined(torch.stack(one), ways).T for one in zip(*changes, strict=True)]
    elif kind == "posterior":
        unit = "nats"
        if isinstance(exact_model, SequenceModel):
            nodes = node_kl(exact_model, question, tree)
        else:
            nodes = depth_kl(exact_model, question)
    else:
        unit += " per unit of input"
        nodes = step_gradient(exact_model, question, tree)
    return Credit(kind, tuple(v.contiguous() for v in nodes), loss, block, steps, question.outcome, unit, axis)


def blocks_of(x: Tensor, block_size: int | str) -> int:
    """Steps a block, checked."""
    block = integer_or_auto("block_size", block_size)
    return auto_block(x.shape[1], x.shape[0]) if isinstance(block, str) else min(block, x.shape[1])


def rolled_of(rolled: int | str, levels: int) -> int:
    """States that the fast knockout rolls a crossing; "auto" is measured (benchmarks.credit)."""
    return rolled if isinstance(rolled, int) else max(12, 2 * levels)


@torch.no_grad()
def loss_of(chain: Chain, model: Model, question: Question, states: Tensor) -> Tensor:
    """Loss of the outcome `(..., B)` from final states `(..., B, S)`."""
    out = chain.read(states)
    if out.ndim > states.ndim:  # a prediction a token: the last one is the outcome's
        out = out[..., -1, :]
    return outcome_loss(model.objective, out, question.y.expand(*out.shape[:-1], *question.y.shape[1:]))
