"""Uses of the paths of a trained layered network: early exit, drafts that are verified, costs of every path.

`models.depth_tree` defines the paths; `rules.depth` trains them.
"""
