"""What the paths of a trained layered network are good for: any-time exit, drafts that are verified, costs.

Which paths there are is said in `models.depth_tree`; how they are trained, in `rules.depth`.
"""
