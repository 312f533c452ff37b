"""Attribution of an outcome to blocks and nodes of the tree: `credit` (`node_credit`) and `lag_map` (`lag`).

No backpropagation through time here, except for comparison (`input_gradient`). Figures are drawn by `plot`.
"""
