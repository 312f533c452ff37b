"""Transfers from a real server on this machine that misbehaves: nothing wrong ever has the file's name."""

import hashlib
import http.server
import itertools
import threading

import pytest

from hbll_seq.datasets.download import DownloadError, fetch

BODY = bytes(range(256)) * 600
SHA = hashlib.sha256(BODY).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the server's `how` says."""

    def do_GET(self):
        how, asked = self.server.how, int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.asked.append(asked)
        start = asked if how != "no ranges" else 0
        body = BODY[start:]
        self.send_response(206 if start else 200)
        length = {"garbage": "many", "none": None, "cut without length": None, "endless": None}.get(how, str(len(body)))
        if how == "page":
            body, length = b"<html>log in</html>", "19"
        if length is not None:
            self.send_header("Content-Length", length)
        if start:
            first = start - 7 if how == "another place" else start
            self.send_header("Content-Range", f"bytes {first}-{len(BODY) - 1}/{len(BODY)}")
        self.end_headers()
        if how in ("cut", "cut without length"):
            body = body[: len(body) // 3]
        try:
            for part in itertools.repeat(BODY) if how == "endless" else [body]:
                self.wfile.write(part)
        except OSError:  # the other side has heard enough
            pass

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.how, made.asked = "well", []
    made.url = f"http://127.0.0.1:{made.server_port}/file"
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join(30)
    assert not thread.is_alive()
    made.server_close()


@pytest.mark.parametrize("how", ["well", "garbage", "none", "no ranges"])
def test_a_whole_file_arrives(server, how, tmp_path):
    server.how = how
    (tmp_path / "f.part").write_bytes(BODY[:1000])
    assert fetch(server.url, SHA, tmp_path / "f", size=len(BODY)).read_bytes() == BODY
    assert [p.name for p in tmp_path.iterdir()] == ["f"] and server.asked == [1000]


@pytest.mark.parametrize("size", [None, len(BODY)])
@pytest.mark.parametrize("how", ["cut", "cut without length"])
def test_a_cut_transfer_is_kept_and_resumed(server, how, size, tmp_path):
    server.how = how
    known = size is not None or how == "cut"
    with pytest.raises(DownloadError, match="102,400 bytes early.*51,200 bytes that came are kept" if known else SHA):
        fetch(server.url, SHA, tmp_path / "f", size=size)
    # without any length it looks whole, and the digest tells
    assert [p.name for p in tmp_path.iterdir()] == (["f.part"] if known else [])
    server.how = "well"
    assert fetch(server.url, SHA, tmp_path / "f", size=size).read_bytes() == BODY


@pytest.mark.parametrize(
    "how,size,says",
    [
        ("page", len(BODY), "gave another file: one of 19 bytes, expected 153,600; it was removed"),
        ("endless", len(BODY), "gave another file: one of more than 153,600 bytes; it was removed"),
        ("well", len(BODY) - 1, "gave another file: one of 153,600 bytes, expected 153,599"),
        ("another place", None, "gave another file: the rest from byte 993 on, asked for 1000"),
        ("page", None, "expected " + SHA),
    ],
)
def test_another_file_leaves_nothing(server, how, size, says, tmp_path):
    server.how = how
    if how == "another place":
        (tmp_path / "f.part").write_bytes(BODY[:1000])
    with pytest.raises(DownloadError, match=says):
        fetch(server.url, SHA, tmp_path / "f", size=size)
    assert not list(tmp_path.iterdir())
