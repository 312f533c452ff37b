"""Tokenizers: from a text to symbols and back, for language models.

A symbol is an integer in 0..V-1. What reads files is in `datasets`; what predicts symbols is in `models`.
"""

from hbll_seq.text.base import Tokenizer as Tokenizer
from hbll_seq.text.bpe import BPETokenizer as BPETokenizer
from hbll_seq.text.byte import ByteTokenizer as ByteTokenizer
from hbll_seq.text.character import CharTokenizer as CharTokenizer
from hbll_seq.text.made import as_tokenizer as as_tokenizer
from hbll_seq.text.made import from_config as from_config
from hbll_seq.text.made import made_for as made_for
from hbll_seq.text.outside import OutsideTokenizer as OutsideTokenizer
from hbll_seq.text.words import WordTokenizer as WordTokenizer
