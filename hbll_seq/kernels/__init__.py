"""What runs on the bare machine: compiled rolls (LLVM), GPU rolls (Triton), affine scans, work buffers.

No module of torch is known here, only tensors; which cell has which roll is said in `cells`. Where one thing has
several implementations, the plain one is called the reference, and every fast one says against which it is tested.
"""
