"""Which blocks, which nodes of the tree, an outcome is owed to: `credit` and `lag_map`.

No backpropagation through time in it, but in the comparison `input_gradient`. Figures of it are in `plot`.
"""
