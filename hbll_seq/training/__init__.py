"""The loop around a rule: `fit`, `step`, `evaluate`, `gradient`, history, callbacks, optimisers, the state of a run.

Nothing here knows how a gradient is found; that is a rule's.
"""
