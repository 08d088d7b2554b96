"""Blocks of pictures, sound, video and relations: made, added, seen again, and refused."""

from __future__ import annotations

import csv
import wave
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shared.data.catalogue import Catalogue
from shared.data.feature_source import FeatureSource
from shared.errors import ConfigError, DataError
from shared.item_features.media_encoder import Modality
from simulations.datasets.blocks import encode_media, encode_relations
from simulations.datasets.encode import Encoding, encode
from simulations.datasets.load import load_items
from simulations.datasets.media import ItemFile, read_frames, read_picture, read_sound
from tests.tiny_encoder import save_encoder
from tests.tiny_media_encoders import save_media_encoder

COLOURS = ("red", "green", "blue")


def write(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def write_sound(path: Path, samples: np.ndarray[tuple[int], np.dtype[np.float64]]) -> None:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Twelve items; of each third the first has no picture, and the second no sound."""
    folder = tmp_path / "shop"
    (folder / "files").mkdir(parents=True)
    rows = [["item_id", "title", "genres", "poster", "sound", "clip"]]
    for item in range(12):
        colour = COLOURS[item // 4]
        name = "" if item % 3 == 0 else f"files/{item}.png"
        pixels = np.random.default_rng(item).integers(0, 60, (24, 20, 3)).astype(np.uint8)
        pixels[..., item // 4] += 190
        if name:
            Image.fromarray(pixels).save(folder / name)
        heard = "" if item % 3 == 1 else f"files/{item}.wav"
        if heard:
            pitch = 200 * (1 + item // 4)
            write_sound(folder / heard, np.sin(2 * np.pi * pitch * np.arange(4000) / 8000))
        clip = f"files/{item}.gif" if item % 2 else f"files/{item}-frames"
        frames = [Image.fromarray(np.roll(pixels, shift, 0)) for shift in range(3)]
        if item % 2:
            frames[0].save(folder / clip, save_all=True, append_images=frames[1:])
        else:
            (folder / clip).mkdir()
            for number, frame in enumerate(frames):
                frame.save(folder / clip / f"{number}.png")
        rows.append([f"i{item}", f"{colour} thing {item % 2}", colour, name, heard, clip])
    write(folder / "items.csv", rows)
    return folder


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    for family in ("vit", "wav2vec2"):
        save_media_encoder(folder / family, family)
    return folder


def encoding(folder: Path, family: str = "vit", size: int = 5) -> Encoding:
    return Encoding(encoder=str(folder / family), size=size, device="cpu")


def parts(catalogue: Catalogue) -> dict[str, torch.Tensor]:
    assert catalogue.features is not None
    split = catalogue.features.split(catalogue.block_sizes, dim=1)
    return {block.name: part for block, part in zip(catalogue.blocks, split, strict=True)}


def test_each_call_adds_a_block_and_the_second_does_nothing(
    shop: Path, encoders: Path, tmp_path: Path
) -> None:
    items, out = load_items(shop), tmp_path / "catalogue"
    text, _ = encode(items, Encoding(words=True, size=4), out)
    image = (shop, encoding(encoders), Modality.IMAGE, "poster", out)
    audio = (shop, encoding(encoders, "wav2vec2"), Modality.AUDIO, "sound", out)
    video = (shop, encoding(encoders), Modality.VIDEO, "clip", out)
    for call in (image, audio, video):
        assert encode_media(items, *call)[1]
    rows = [["head", "relation", "tail"]]
    rows += [[f"i{item}", "colour", COLOURS[item // 4]] for item in range(12)]
    table = write(tmp_path / "relations.csv", [*rows, ["red", "warmer than", "blue"]])
    made, anew = encode_relations(items, table, 5, out)
    assert anew
    loaded = Catalogue.load(out)
    assert loaded.fingerprint == made.fingerprint
    assert [block.name for block in loaded.blocks] == [
        *("text", "image", "audio", "video", "relations")
    ]
    found = parts(loaded)
    assert text.features is not None
    assert torch.equal(found["text"], text.features)
    assert FeatureSource.from_text(loaded.blocks[0].source) == text.source
    lacking = {name: (~part.any(1)).nonzero()[:, 0].tolist() for name, part in found.items()}
    assert lacking["image"] == [0, 3, 6, 9]
    assert lacking["audio"] == [1, 4, 7, 10]
    assert lacking["video"] == lacking["relations"] == []
    for part in found.values():
        present = part[part.any(1)].double()
        np.testing.assert_allclose(present.mean(0), 0, atol=1e-5)
    assert all(part[:, -1].any() for name, part in found.items() if name != "text")
    for name in ("image", "relations"):  # whose colours are alike lie together
        group = torch.arange(12) // 4
        alike = (
            torch.nn.functional.normalize(found[name])
            @ torch.nn.functional.normalize(found[name]).T
        )
        same = group[:, None] == group
        assert alike[same].mean() > alike[~same].mean() + 0.2
    before = loaded.fingerprint
    for call in (image, audio, video):
        assert not encode_media(items, *call)[1]
    assert not encode_relations(items, table, 5, out)[1]
    assert not encode(items, Encoding(words=True, size=4), out)[1]
    assert Catalogue.load(out).fingerprint == before


def test_text_may_come_later_and_one_that_is_adapted_stays_alone(
    shop: Path, encoders: Path, tmp_path: Path
) -> None:
    items, out, words = load_items(shop), tmp_path / "catalogue", Encoding(words=True, size=4)
    encode_media(items, shop, encoding(encoders), Modality.IMAGE, "poster", out)
    made, anew = encode(items, words, out)
    assert anew
    assert [block.name for block in made.blocks] == ["image", "text"]
    alone = encode(items, words, tmp_path / "alone")[0].features
    assert alone is not None
    text = parts(made)["text"]
    assert torch.equal(text, alone[:, : text.shape[1]])
    assert not encode(items, words, out)[1]
    with pytest.raises(ConfigError, match="features of text computed with size 4"):
        encode(items, replace(words, size=3), out)
    adapted = Encoding(encoder=str(save_encoder(tmp_path / "bert")), adaptable=1, size=4)
    with pytest.raises(ConfigError, match="that this command did not write"):
        encode(items, adapted, out)
    encode(items, adapted, tmp_path / "adapted")
    with pytest.raises(ConfigError, match="which reads text alone"):
        encode_media(
            items, shop, encoding(encoders), Modality.IMAGE, "poster", tmp_path / "adapted"
        )


def test_another_way_other_files_and_other_items_are_refused(
    shop: Path, encoders: Path, tmp_path: Path
) -> None:
    items, out = load_items(shop), tmp_path / "catalogue"
    encode_media(items, shop, encoding(encoders), Modality.IMAGE, "poster", out)
    before = Catalogue.load(out).fingerprint
    again = (Modality.IMAGE, "poster", out)
    with pytest.raises(ConfigError, match="features of image computed with size 5"):
        encode_media(items, shop, encoding(encoders, size=4), *again)
    other = replace(items, titles=("Another", *items.titles[1:]))
    with pytest.raises(ConfigError, match="holds other items"):
        encode_media(other, shop, encoding(encoders), *again)
    Image.new("RGB", (9, 9)).save(shop / "files" / "1.png")
    with pytest.raises(ConfigError, match="image computed with files"):
        encode_media(items, shop, encoding(encoders), *again)
    assert Catalogue.load(out).fingerprint == before
    items.save(tmp_path / "bare")
    for folder, message in (
        (shop, "neither empty nor a cat"),
        (tmp_path / "bare", "did not write"),
    ):
        with pytest.raises(ConfigError, match=message):
            encode_media(items, shop, encoding(encoders), Modality.IMAGE, "poster", folder)


@pytest.mark.parametrize(
    ("column", "modality", "spoil", "problem"),
    [
        ("poster", Modality.IMAGE, "gone", r"row 2.*no such file.*files/1\.png"),
        ("poster", Modality.IMAGE, "damaged", r"Pillow cannot read 1\.png"),
        ("poster", Modality.IMAGE, "cut", r"Pillow cannot read 1\.png"),
        ("sound", Modality.AUDIO, "damaged", "cannot be read as WAV"),
        ("sound", Modality.AUDIO, "empty", "holds no sound"),
        ("clip", Modality.VIDEO, "gone", "holds no picture"),
        ("colour", Modality.IMAGE, "", "the column is missing"),
        ("nothing", Modality.IMAGE, "", "--column nothing: it is empty for every item"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_row(
    shop: Path,
    encoders: Path,
    tmp_path: Path,
    column: str,
    modality: Modality,
    spoil: str,
    problem: str,
) -> None:
    table = (shop / "items.csv").read_text().splitlines()
    lines = [table[0] + ",nothing", *(line + "," for line in table[1:])]
    (shop / "items.csv").write_text("\n".join(lines) + "\n")
    file = shop / "files" / {"poster": "1.png", "sound": "2.wav"}.get(column, "4.gif")
    if spoil == "gone":
        file.unlink(missing_ok=True)
        for frame in (shop / "files" / "4-frames").iterdir():
            frame.unlink()
    elif spoil == "damaged":
        file.write_bytes(b"nothing of the kind")
    elif spoil == "cut":
        file.write_bytes(file.read_bytes()[:200])
    elif spoil == "empty":
        write_sound(file, np.zeros(0))
    family = "wav2vec2" if modality is Modality.AUDIO else "vit"
    with pytest.raises((ConfigError, DataError)) as error:
        encode_media(
            load_items(shop), shop, encoding(encoders, family), modality, column, tmp_path / "out"
        )
    text = str(error.value)
    assert all(part in text for part in problem.replace("\\", "").split(".*")), text
    assert not spoil or (column in text and "row" in text)
    assert not (tmp_path / "out").exists()


def item_file(path: Path) -> ItemFile:
    return ItemFile(path=path, table="items.csv", row=1, column="file", value=path.name)


@pytest.mark.parametrize(("width", "exact"), [(1, 2**-6), (2, 2**-14), (3, 2**-22), (4, 2**-22)])
def test_sounds_are_read_at_every_depth_mixed_and_resampled(
    width: int, exact: float, tmp_path: Path
) -> None:
    wanted = 0.5 * np.sin(2 * np.pi * 100 * np.arange(1600) / 8000)
    whole = np.round(wanted * 2 ** (8 * width - 1)).astype(np.int64) + (128 if width == 1 else 0)
    mono = whole.astype("<i8").view(np.uint8).reshape(-1, 8)[:, :width]
    stereo = np.repeat(mono[:, None], 2, axis=1)
    with wave.open(str(tmp_path / "a.wav"), "wb") as file:
        file.setparams((2, width, 8000, 0, "NONE", ""))
        file.writeframes(stereo.tobytes())
    np.testing.assert_allclose(read_sound(item_file(tmp_path / "a.wav"), 8000), wanted, atol=exact)
    faster = read_sound(item_file(tmp_path / "a.wav"), 16000)
    assert len(faster) == 3200
    np.testing.assert_allclose(faster[400:2800:2], wanted[200:1400], atol=0.02)


def test_frames_are_evenly_drawn(tmp_path: Path) -> None:
    shades = [Image.new("L", (8, 8), 10 * shade) for shade in range(20)]
    shades[0].save(tmp_path / "a.png", save_all=True, append_images=shades[1:])
    drawn = [frame.getpixel((0, 0)) for frame in read_frames(item_file(tmp_path / "a.png"))]
    assert drawn == [(10 * place,) * 3 for place in (1, 3, 6, 8, 11, 13, 16, 18)]
    assert read_picture(item_file(tmp_path / "a.png")).getpixel((0, 0)) == (0, 0, 0)


def test_a_picture_of_too_many_pixels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (40, 40)).save(tmp_path / "a.png")
    for most in (1000, 100):  # beyond which Pillow warns, and beyond twice which it refuses
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with pytest.raises(DataError, match=f"more than {most:,} pixels"):
            read_picture(item_file(tmp_path / "a.png"))


def test_relations_of_a_single_item_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "items.csv", [["item_id", "title"], ["1", "red"], ["2", "blue"]])
    items = load_items(tmp_path)
    rows = [["head", "relation", "tail"], ["1", "genre", "tea"], ["1", "mood", "calm"]]
    table = write(tmp_path / "relations.csv", rows)
    with pytest.raises(DataError, match="a single item of the catalogue"):
        encode_relations(items, table, 5, tmp_path / "out")
    assert not (tmp_path / "out").exists()
