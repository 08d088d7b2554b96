"""Text encoders of a few kilobytes with random weights, as `save_pretrained` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["WIDTH", "WORDS", "save_encoder"]

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
