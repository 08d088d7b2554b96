"""Text encoders of a few kilobytes with random weights, as `save_pretrained` writes them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from shared.data.catalogue import Catalogue
from shared.item_features.adaptable import adaptable_text
from shared.item_features.encoder import TextEncoder, encoded_features
from shared.item_features.encoder_source import find_encoder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["WIDTH", "WORDS", "save_encoder", "text_catalogue"]

WIDTH = 32
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = (
    *("alien", "dawn", "dusk", "slime", "night", "happy", "wedding", "second", "summer", "rome"),
    *("space", "race", "deep", "sea", "horror", "scifi", "comedy", "romance", "documentary"),
    *("drama", "story", *map(str, range(20)), *map(str, range(1970, 2020))),
)


def save_encoder(folder: Path, seed: int = 0, *, marked: bool = True) -> Path:
    """Write a BERT of two layers and a tokenizer of whole words.

    Args:
        folder: where to; made if need be.
        seed: of its weights.
        marked: whether the tokenizer puts [CLS] and [SEP] around a text.
    """
    from transformers import BertConfig, BertModel  # noqa: PLC0415 takes seconds

    tokenizer(marked=marked).save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(SPECIAL) + len(WORDS),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=24,
        initializer_range=0.05,  # so small that alike words give alike states
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    return folder


def tokenizer(*, marked: bool = True) -> PreTrainedTokenizerFast:
    """Lower-case words between spaces and punctuation."""
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415 takes seconds

    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if marked:
        words.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


@cache
def text_catalogue(items: int = 20, size: int = 4, blocks: int = 2) -> Catalogue:
    """Items "i1", "i2", ... of a few words each, with features of a tiny encoder and its blocks.

    The last item has no text.
    """
    texts = [" ".join(WORDS[(7 * n + k) % 30] for k in range(1 + n % 4)) for n in range(items - 1)]
    names = tuple(f"i{number}" for number in range(1, items + 1))
    plain = Catalogue(names, (*texts, ""), ((),) * items, (None,) * items)
    with TemporaryDirectory() as folder:
        encoder = TextEncoder(find_encoder(str(save_encoder(Path(folder) / "tiny"))))
        text = adaptable_text(plain, encoder, size, blocks=blocks)
        return plain.with_features(encoded_features(plain, encoder, size), text=text)
