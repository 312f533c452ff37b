"""Batches from every form of input: checks, targets and batch sources.

Nothing here knows a model or a rule: `expected.Expected` describes the inputs of a model. `datasets` holds the named
sets.
"""
