"""Names, options and missing files of every set; MNIST from its files."""

import gzip

import pytest
import torch

from hbll_seq import datasets
from hbll_seq.errors import InputError

pytestmark = pytest.mark.usefixtures("own_folders")


def test_names_are_sorted_and_errors_list_them():
    assert list(datasets.names()) == sorted(datasets.names())
    with pytest.raises(InputError, match="'wikitext'; expected one of adding, chomsky, cmudict, .*tinyshakespeare"):
        datasets.load("wikitext")
    with pytest.raises(InputError, match="stepz: .*expected one of steps, symbols, n, seed"):
        datasets.load("recall", stepz=3)


@pytest.mark.parametrize("name, file", [("mnist10k", "t10k-images-idx3-ubyte.gz"), ("fsdd", "7_jackson_32.wav")])
def test_missing_files_are_named(name, file, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=f"HBLL_SEQ_DATA not set; expected .*{file}.*HBLL_SEQ_DATA/{name}"):
        datasets.load(name)
    monkeypatch.setenv("HBLL_SEQ_DATA", str(tmp_path))
    with pytest.raises(InputError, match=f"no folder .*{name}"):
        datasets.load(name)
    with pytest.raises(InputError, match=f"{file}.*path="):
        datasets.load(name, path=tmp_path)


def test_mnist10k_pixels_and_permutation(real_data):
    real_data("mnist10k")
    plain = datasets.load("mnist10k")
    assert plain.train_x.shape == (8000, 784, 1) and plain.test_x.shape == (2000, 784, 1)
    assert plain.train_x.dtype == torch.float32 and float(plain.train_x.min()) == 0
    assert float(plain.train_x.max()) == 1 and plain.order is None and plain.train_lengths is None
    assert plain.train_y[:5].tolist() == [7, 2, 1, 0, 4]  # the well-known first test digits
    assert set(plain.test_y.tolist()) == set(range(10)) and plain.input_size == 1
    shuffled = datasets.load("mnist10k", permuted=True, seed=3)
    assert sorted(shuffled.order.tolist()) == list(range(784))
    assert torch.equal(shuffled.test_x, plain.test_x[:, shuffled.order])


def test_mnist10k_refuses_other_files(tmp_path):
    for file in ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (tmp_path / file).write_bytes(gzip.compress(b"\0\0\x08\x01" + b"\0" * 40))
    with pytest.raises(InputError, match="IDX uint8 of shape"):
        datasets.load("mnist10k", path=tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(b"<html>")
    with pytest.raises(InputError, match="a whole gzip file"):
        datasets.load("mnist10k", path=tmp_path)
