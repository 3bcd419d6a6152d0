"""Tokenizers for tests: WordPiece whose vocabulary is every word of the texts, and every letter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import BertTokenizer

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def word_tokenizer(texts: Iterable[str], *, letters: str = "") -> BertTokenizer:
    """Build an uncased BERT tokenizer to which each word of the texts is one token.

    Args:
        texts: Give the words.
        letters: Other words are spelt out in these.
    """
    from transformers import BertTokenizer

    plain = BertTokenizer(vocab={token: number for number, token in enumerate(SPECIAL)}).backend_tokenizer
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    for text in texts:
        words = plain.pre_tokenizer.pre_tokenize_str(plain.normalizer.normalize_str(text))
        pieces += [word for word, _ in words]
    return BertTokenizer(
        vocab={token: number for number, token in enumerate(dict.fromkeys([*SPECIAL, *pieces]))}
    )
