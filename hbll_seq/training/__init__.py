"""The training loop: `fit`, `step`, `evaluate`, `gradient`, history, callbacks, optimisers, the state of a run.

Nothing here knows how a gradient is found: that is the rule's part.
"""
