"""Kernels: numba on the CPU, plain torch as reference and fall-back."""
