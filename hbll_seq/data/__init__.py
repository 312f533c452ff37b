"""From whatever a user has to batches: forms of input, checks, targets, where batches come from.

Nothing here knows a model or a rule: what a model reads is asked through `expected.Expected`. Named sets are in
`datasets`.
"""
