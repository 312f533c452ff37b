"""Downloads, from a server that can be told to misbehave."""

import hashlib
import os
import urllib.error

import pytest

from hbll_seq import datasets
from hbll_seq.datasets import DownloadError, shakespeare
from hbll_seq.datasets.download import fetch

pytestmark = pytest.mark.usefixtures("own_folders")


BODY = bytes(range(256)) * 1000
SHA = hashlib.sha256(BODY).hexdigest()
URL = "https://example.org/file"


def test_download_is_whole_cached_and_leaves_no_part(serve, tmp_path):
    server, target = serve(BODY), tmp_path / "new" / "file"
    assert fetch(URL, SHA, target).read_bytes() == BODY
    assert os.listdir(target.parent) == ["file"]
    fetch(URL, SHA, target)
    assert server.asked == [0]
    target.write_bytes(b"damaged later")
    assert fetch(URL, SHA, target).read_bytes() == BODY


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_download_resumes(serve, tmp_path, ranges):
    target = tmp_path / "file"
    serve(BODY, cut=100_000)
    with pytest.raises(DownloadError, match="(?s)156,000 bytes early.*100,000 bytes .*kept.*curl -fL"):
        fetch(URL, SHA, target)
    assert os.listdir(tmp_path) == ["file.part"]
    server = serve(BODY, ranges=ranges)
    assert fetch(URL, SHA, target).read_bytes() == BODY
    assert server.asked == [100_000] and os.listdir(tmp_path) == ["file"]


def test_part_that_is_whole_or_too_long(serve, tmp_path):
    server, target = serve(BODY), tmp_path / "file"
    (tmp_path / "file.part").write_bytes(BODY)  # stopped just before the rename
    assert fetch(URL, SHA, target).read_bytes() == BODY and server.asked == []
    target.unlink()
    (tmp_path / "file.part").write_bytes(BODY + b"more")
    assert fetch(URL, SHA, target).read_bytes() == BODY and server.asked == [len(BODY) + 4, 0]


def test_wrong_checksum_leaves_nothing(serve, tmp_path):
    serve(b"<html>log in to the wifi</html>")
    with pytest.raises(DownloadError, match=f"expected {SHA}; it was removed"):
        fetch(URL, SHA, tmp_path / "file")
    assert os.listdir(tmp_path) == []


def test_offline_says_what_to_do(monkeypatch, tmp_path):
    def offline(request, timeout):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(DownloadError, match="(?s)service not known.*Check the connection.*curl -fL https"):
        datasets.load("tinyshakespeare", download=True)


def test_tinyshakespeare_download_then_cache(serve, monkeypatch):
    body = b"To be, or not to be: that is the question.\n" * 25_000
    monkeypatch.setattr(shakespeare, "SHA256", hashlib.sha256(body).hexdigest())
    server = serve(body)
    assert len(datasets.load("tinyshakespeare", download=True).train) == 1_000_000
    datasets.load("tinyshakespeare")
    assert server.asked == [0]
