"""`citation`: what it says is well-formed and names the paper and the version."""

from importlib.metadata import version

import pytest

import hbll_seq as hs


def test_bibtex_has_two_balanced_entries():
    text = hs.citation()
    assert text.count("@") == 2 and text.count("{") == text.count("}")
    assert "2606.21497" in text and f"Version {version('hbll_seq')}" in text
    assert all(line.endswith(("{hbll2026,", "{hbll_seq,", "},", "}", "")) for line in text.splitlines())


def test_text_is_two_lines_with_given_names_first():
    first, second = hs.citation("text").splitlines()
    assert first.startswith("N. Mohan Sushma, A. Nagarsekar,") and "arXiv:2606.21497" in first
    assert version("hbll_seq") in second


def test_other_styles_are_refused():
    with pytest.raises(hs.InputError, match="style"):
        hs.citation("apa")
