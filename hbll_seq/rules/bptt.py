"""`bptt`: backpropagation through time, the reference every other rule is measured against."""

from hbll_seq.batch import Batch
from hbll_seq.models.recurrent import SequenceModel, sequential
from hbll_seq.rules.base import Rule, StepResult, register
from hbll_seq.rules.execute import forward_backward


@register
class BPTT(Rule[SequenceModel]):
    """The sequential chain, differentiated from end to end by PyTorch's own recurrent kernels."""

    name = "bptt"

    def step(self, model: SequenceModel, batch: Batch) -> StepResult:
        """See `Rule.step`."""
        loss, _ = forward_backward(model, batch, sequential)
        return StepResult(loss, {"depth": 2.0 * batch.x.shape[1]})
