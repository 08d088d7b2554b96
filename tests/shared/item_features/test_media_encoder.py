"""Encoders of pictures and sound, made on the spot: what they read, what they are refused for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from shared.errors import DataError
from shared.item_features.encoder_source import find_encoder
from shared.item_features.media_encoder import MediaEncoder, Modality
from tests.tiny_media_encoders import save_media_encoder

SOUNDS = ("wav2vec2", "ast", "whisper")


def picture(seed: int, size: tuple[int, int] = (20, 30)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    return Image.fromarray(pixels)


def sound(pitch: float, rate: int, seconds: float = 0.5) -> np.ndarray[Any, Any]:
    return np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate).astype(np.float32)


@pytest.mark.parametrize("family", ["vit", "clip", "resnet"])
def test_pictures_become_unit_vectors_and_what_is_missing_zeros(
    family: str, tmp_path: Path
) -> None:
    files = find_encoder(str(save_media_encoder(tmp_path / family, family)), of_text=False)
    encoder = MediaEncoder(files, Modality.IMAGE)
    pictures = [[picture(1)], [], [picture(2, (9, 40))], [picture(1)]]
    vectors = encoder.vectors(4, pictures.__getitem__, batch_size=3)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0, 1, 1])
    np.testing.assert_allclose(vectors[0], vectors[3], atol=1e-6)
    assert abs(vectors[0] - vectors[2]).max() > 1e-4
    done = list[tuple[int, int]]()
    alone = encoder.vectors(
        4, pictures.__getitem__, batch_size=1, progress=lambda *at: done.append(at)
    )
    np.testing.assert_allclose(alone, vectors, atol=1e-5)
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_video_is_the_mean_of_its_frames(tmp_path: Path) -> None:
    files = find_encoder(str(save_media_encoder(tmp_path / "vit", "vit")), of_text=False)
    encoder = MediaEncoder(files, Modality.VIDEO)
    frames = [picture(1), picture(2), picture(3)]
    together = encoder.vectors(2, [frames, frames[:1]].__getitem__)
    each = encoder.vectors(3, [[frame] for frame in frames].__getitem__)
    mean = each.mean(0)
    np.testing.assert_allclose(together[0], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(together[1], each[0], atol=1e-5)


@pytest.mark.parametrize("family", SOUNDS)
def test_sounds_of_any_length_become_unit_vectors(family: str, tmp_path: Path) -> None:
    files = find_encoder(str(save_media_encoder(tmp_path / family, family)), of_text=False)
    encoder = MediaEncoder(files, Modality.AUDIO)
    assert encoder.rate == (4000 if family == "wav2vec2" else 16000)
    rate = encoder.rate
    sounds = [[sound(200, rate)], [], [sound(900, rate, 0.8)]]
    vectors = encoder.vectors(3, sounds.__getitem__)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 0, 1])
    assert abs(vectors[0] - vectors[2]).max() > 1e-4


def test_what_cannot_be_read_is_refused_with_its_row(tmp_path: Path) -> None:
    folder = save_media_encoder(tmp_path / "wav2vec2", "wav2vec2")
    encoder = MediaEncoder(find_encoder(str(folder), of_text=False), Modality.AUDIO)
    sounds: list[Sequence[Any]] = [[], [np.zeros(3, np.float32)]]
    with pytest.raises(DataError, match="does not encode the audio of row 2"):
        encoder.vectors(2, sounds.__getitem__)
    with pytest.raises(DataError, match="transformers cannot load it"):
        MediaEncoder(find_encoder(str(folder), of_text=False), Modality.IMAGE)


def test_an_encoder_that_is_not_whole_or_brings_code_is_refused(tmp_path: Path) -> None:
    folder = save_media_encoder(tmp_path / "vit", "vit")
    config = folder / "config.json"
    about = json.loads(config.read_text())
    code = {"AutoModel": "modeling.Model", "AutoConfig": "modeling.Config"}
    config.write_text(json.dumps(about | {"model_type": "other", "auto_map": code}))
    (folder / "modeling.py").write_text("raise SystemExit('ran')")
    with pytest.raises(DataError, match="transformers cannot load it"):
        MediaEncoder(find_encoder(str(folder), of_text=False), Modality.IMAGE)
    config.write_text(json.dumps(about))
    weights = load_file(folder / "model.safetensors")
    gone = next(name for name in weights if "query.weight" in name or "q_proj.weight" in name)
    rest = {name: value for name, value in weights.items() if name != gone}
    save_file(rest, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="its weights lack 1 of the model's"):
        MediaEncoder(find_encoder(str(folder), of_text=False), Modality.IMAGE)
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(DataError, match="holds no preprocessor"):
        find_encoder(str(folder), of_text=False)
    save_media_encoder(folder, "vit")
    torch.save(weights, folder / "model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"only model\.bin, a pickle: opening one can run code"):
        find_encoder(str(folder), of_text=False)
