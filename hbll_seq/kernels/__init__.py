"""Machine-level code: compiled rolls (LLVM), GPU rolls (Triton), affine scans, work buffers.

Nothing here knows torch modules, only tensors; `cells` assigns rolls to cells. Where a function has several
implementations, the plain one is called the reference, and every fast one names the reference of its tests.
"""
