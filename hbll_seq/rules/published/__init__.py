"""The paper's own rules, over time and over depth, and the mathematics they rest on: kept to reproduce it.

Outside this folder only `rules` (the registry) and `attribution` (posterior credit over depth) import from it.
"""
