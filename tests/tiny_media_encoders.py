"""Encoders of pictures and sound of a few kilobytes, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import ViTImageProcessor

__all__ = ["SIDE", "save_media_encoder"]

SIDE, WIDTH = 16, 16
"""Pixels on a side; numbers of a state."""


def save_media_encoder(folder: Path, family: str, seed: int = 0) -> Path:
    """Write a model and its preprocessor.

    Args:
        folder: where to; made if need be.
        family: "vit" or "clip" (projects), "resnet" (states have places), all of pictures;
            "wav2vec2", "ast" or "whisper" (with a decoder), of sound.
        seed: of its weights.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in _MADE[family]():
            part.save_pretrained(folder)
    return folder


def _layers() -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }


def _picture_processor() -> ViTImageProcessor:
    from transformers import ViTImageProcessor  # noqa: PLC0415 takes seconds

    return ViTImageProcessor(size={"height": SIDE, "width": SIDE})


def _vit() -> tuple[Any, ...]:
    from transformers import ViTConfig, ViTModel  # noqa: PLC0415

    config = ViTConfig(**_layers(), image_size=SIDE, patch_size=8)
    return ViTModel(config, add_pooling_layer=False), _picture_processor()


def _clip() -> tuple[Any, ...]:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel  # noqa: PLC0415

    sizes = {"shortest_edge": SIDE}
    crop = {"height": SIDE, "width": SIDE}
    config = CLIPConfig(
        text_config=_layers() | {"vocab_size": 8, "max_position_embeddings": 4},
        vision_config=_layers() | {"image_size": SIDE, "patch_size": 8},
        projection_dim=6,
    )
    return CLIPModel(config), CLIPImageProcessor(size=sizes, crop_size=crop)


def _resnet() -> tuple[Any, ...]:
    from transformers import ResNetConfig, ResNetModel  # noqa: PLC0415

    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1])
    return ResNetModel(config), _picture_processor()


def _wav2vec2() -> tuple[Any, ...]:
    from transformers import (  # noqa: PLC0415
        Wav2Vec2Config,
        Wav2Vec2FeatureExtractor,
        Wav2Vec2Model,
    )

    config = Wav2Vec2Config(
        **_layers(),
        conv_dim=(8, 8),
        conv_kernel=(10, 5),
        conv_stride=(5, 4),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    return Wav2Vec2Model(config), Wav2Vec2FeatureExtractor(sampling_rate=4000)


def _ast() -> tuple[Any, ...]:
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel  # noqa: PLC0415

    config = ASTConfig(
        **_layers(),
        patch_size=8,
        max_length=32,
        num_mel_bins=16,
        frequency_stride=8,
        time_stride=8,
    )
    return ASTModel(config), ASTFeatureExtractor(num_mel_bins=16, max_length=32)


def _whisper() -> tuple[Any, ...]:
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel  # noqa: PLC0415

    config = WhisperConfig(
        vocab_size=8,
        num_mel_bins=8,
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_source_positions=50,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    return WhisperModel(config), WhisperFeatureExtractor(feature_size=8, chunk_length=1)


_MADE = {
    "vit": _vit,
    "clip": _clip,
    "resnet": _resnet,
    "wav2vec2": _wav2vec2,
    "ast": _ast,
    "whisper": _whisper,
}
