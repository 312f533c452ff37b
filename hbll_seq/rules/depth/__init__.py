"""Rules for layered networks: local losses over the tree of depth, and backpropagation as the rival.

Rules over time stand one folder up, the published reading of Algorithm 1 in `rules.published`.
"""
