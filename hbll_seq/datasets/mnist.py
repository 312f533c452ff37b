"""MNIST's 10,000 test images, read pixel by pixel: 784 time steps before one answer."""

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import torch

from hbll_seq.datasets.location import data_folder, missing
from hbll_seq.datasets.train_test import TrainTest
from hbll_seq.errors import InputError

IMAGES, LABELS = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
TRAIN = 8000


def load_mnist10k(path: str | os.PathLike[str] | None = None, permuted: bool = False, seed: int = 0) -> TrainTest:
    """Load pixel sequences of the 10,000 images: the first 8,000 train, the last 2,000 test.

    Args:
        path: folder with the two IDX gzip files; `$HBLL_SEQ_DATA/mnist10k` when None.
        permuted: show the pixels in one fixed random order, the same for every image, kept in `.order`.
        seed: seed of that order.

    Returns:
        x `(n, 784, 1)` float32 in [0, 1], y `(n,)` int64 in 0 .. 9, no lengths.

    Raises:
        InputError: the files are absent or are not the IDX files of 10,000 images.
    """
    expected = f"{IMAGES} and {LABELS}"
    folder = data_folder("mnist10k", path, expected)
    for name in (IMAGES, LABELS):
        if not (folder / name).is_file():
            raise missing("mnist10k", f"no file {folder / name}", expected)
    pixels = torch.from_numpy(_idx(folder / IMAGES, (10_000, 28, 28))).view(10_000, 784, 1)
    labels = torch.from_numpy(_idx(folder / LABELS, (10_000,))).long()
    order = torch.randperm(784, generator=torch.Generator().manual_seed(seed)) if permuted else None
    if order is not None:
        pixels = pixels[:, order]
    x = pixels.float() / 255  # (10000, 784, 1)
    return TrainTest(
        train_x=x[:TRAIN],
        train_y=labels[:TRAIN],
        train_lengths=None,
        test_x=x[TRAIN:],
        test_y=labels[TRAIN:],
        test_lengths=None,
        classes=10,
        source="MNIST test images, pixels " + (f"permuted by seed {seed}" if permuted else "in row order"),
        order=order,
    )


def _idx(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read the `shape` uint8 array of a gzip IDX file.

    The file has two zero bytes, type 8 (uint8), the number of dimensions, each dimension as a big-endian int32, then
    the data.
    """
    try:
        data = gzip.decompress(file.read_bytes())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError("path", f"{file} ({error})", "a whole gzip file") from error
    header = bytes([0, 0, 8, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    if data[: len(header)] != header or len(data) - len(header) != int(np.prod(shape)):
        raise InputError("path", f"{file} with another header or size", f"IDX uint8 of shape {shape}")
    return np.frombuffer(data, np.uint8, offset=len(header)).reshape(shape).copy()
