"""`convert` and `revert`: PyTorch's recurrent layers inside a model, run by an engine, and back.

A layer changes its class and nothing else: parameters, names, hooks and the optimiser's references stay.
"""

import copy as copying
from typing import Any, TypeVar

from torch import nn

from hbll_seq.errors import InputError
from hbll_seq.nn.engined import Engined, layer_options
from hbll_seq.nn.layers import GRU, LSTM, RNN

M = TypeVar("M", bound=nn.Module)

PAIRS: dict[type[nn.Module], type[nn.Module]] = {nn.GRU: GRU, nn.LSTM: LSTM, nn.RNN: RNN}
BACK = {ours: theirs for theirs, ours in PAIRS.items()}


def convert(model: M, *, copy: bool = False, verbose: bool = True, **options: Any) -> M:
    """Let an engine run every `nn.GRU`, `nn.LSTM` and `nn.RNN` inside a model; the weights are shared.

    A layer that is ours already gets the options if there are any. Saved state_dicts fit before and after.

    Args:
        model: any module, also one of these layers itself.
        copy: leave `model` as it is and return a copy that shares parameters and buffers with it.
        verbose: print what was converted, and what was left and why.
        options: options of the engines, see `hbll_seq.engine.Options`.

    Returns:
        The model; a single layer too is the same object, unless `copy`.

    Raises:
        InputError: nothing to convert, or an option out of range; the model is unchanged then.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module")
    layer_options(options)
    found = [one for one in model.modules() if type(one) in PAIRS or isinstance(one, Engined)]
    if not any(why_left(one) is None for one in found):
        left = [f"{name or 'it'}: {why}" for name, one in model.named_modules() if (why := why_left(one))]
        reasons = f" ({'; '.join(left)})" if left else ""
        came = f"{type(model).__name__} without a layer to convert{reasons}"
        raise InputError("model", came, "an nn.GRU, nn.LSTM or nn.RNN")
    if copy:
        shared = {id(one): one for one in (*model.parameters(), *model.buffers())}
        model = copying.deepcopy(model, shared)
    for name, one in model.named_modules():
        reason = why_left(one)
        if reason is None and (type(one) in PAIRS or options):
            if type(one) in PAIRS:
                one.__class__ = PAIRS[type(one)]
            assert isinstance(one, Engined)
            one.set_engine(options)
            if verbose:
                print(f"{name or 'the model'}: {one}")
        elif reason and verbose:
            print(f"{name or 'the model'} stays as it is: {reason}")
    return model


def revert(model: M) -> M:
    """Make every layer that `convert` converted, and every `GRU`, `LSTM` and `RNN` of ours, PyTorch's own; in place.

    Returns:
        The model.

    Raises:
        InputError: a layer with parametrizations, whose class is theirs; the model is unchanged then.
    """
    if not isinstance(model, nn.Module):
        raise InputError("model", type(model).__name__, "an nn.Module")
    for name, one in model.named_modules():
        if isinstance(one, tuple(BACK)) and hasattr(one, "parametrizations"):
            raise InputError("model", f"parametrizations of {name or 'the layer'}", "them removed first")
    for one in model.modules():
        if type(one) in BACK:
            one.__class__ = BACK[type(one)]
            for name in ("_engine", "_execution"):
                vars(one).pop(name, None)
    return model


def why_left(module: nn.Module) -> str | None:
    """Return why `convert` leaves a module that runs a recurrent network, or None; "" for any other module."""
    if isinstance(module, Engined):
        return None
    if isinstance(module, nn.RNNCellBase):
        wrapped = "" if isinstance(module, nn.LSTMCell) else "; hbll_seq.nn.Recurrent runs a sequence by such a cell"
        return f"{type(module).__name__} makes one time step{wrapped}"
    if not isinstance(module, nn.RNNBase):
        return ""
    if type(module) not in PAIRS:
        if hasattr(module, "parametrizations"):
            return "it has parametrizations; convert first, then parametrize"
        return f"{type(module).__name__} is a class of its own, which may do more than its base"
    if "forward" in vars(module):
        return "its forward was replaced"
    return None
