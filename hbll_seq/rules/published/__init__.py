"""The paper's own rules, and the mathematics they rest on, kept to reproduce it.

Nothing outside this folder builds on it, but the registry in `rules`.
"""
