"""A frozen encoder's features: the same everywhere, whatever the batch; bad encoders explained."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from shared.data.catalogue import Catalogue
from shared.errors import DataError, FetchError
from shared.item_features import encoder_source as encoder_files
from shared.item_features.encoder import Pooling, TextEncoder, encoded_features, item_text
from shared.item_features.encoder_source import find_encoder
from shared.item_features.tfidf import text_features
from tests.tiny_encoder import save_encoder, tokenizer

TEXTS = [
    "Alien Dawn (1979). Horror, SciFi",
    "Happy Wedding. Comedy, Romance",
    "Alien",
    "A Second Wedding in Rome, in summer, at night (1994). Comedy",
]


def catalogue(*items: tuple[str, str, int | None]) -> Catalogue:
    """Items as (title, genres joined by "|", year)."""
    return Catalogue(
        tuple(f"i{number}" for number in range(len(items))),
        tuple(title for title, _, _ in items),
        tuple(tuple(genres.split("|")) if genres else () for _, genres, _ in items),
        tuple(year for _, _, year in items),
    )


FILMS = catalogue(
    ("Alien Dawn", "Horror|SciFi", 1979),
    ("Alien Dusk", "Horror|SciFi", 1986),
    ("Night of Slime", "Horror|SciFi", 1982),
    ("Happy Wedding", "Comedy|Romance", 1994),
    ("The Second Wedding", "Comedy|Romance", 1996),
    ("A Summer in Rome", "Comedy|Romance", 1999),
    ("Space Race", "Documentary", 2012),
    ("Deep Sea", "Documentary", 2015),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TextEncoder:
    return TextEncoder(find_encoder(str(folder)))


@pytest.fixture
def broken(folder: Path, tmp_path: Path) -> Path:
    """A copy to take something out of."""
    copy = tmp_path / "broken"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


# --- text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (("Alien", ("Horror", "SciFi"), 1979), "Alien (1979). Horror, SciFi"),
        (("Alien (1979)", ("Horror",), 1979), "Alien (1979). Horror"),
        (("Alien", (), None), "Alien"),
        (("", ("Horror",), None), "Horror"),
        (("  ", (), 1979), "(1979)"),
        (("", (), None), ""),
    ],
)
def test_an_items_text_holds_title_genres_and_year(
    item: tuple[str, tuple[str, ...], int | None], text: str
) -> None:
    assert item_text(*item) == text


# --- vectors -----------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", list(Pooling))
def test_vectors_are_the_models_own_states_pooled(folder: Path, pooling: Pooling) -> None:
    """Against transformers, one text at a time and so without padding."""
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415 takes seconds

    found = TextEncoder(find_encoder(str(folder)), pooling=pooling).vectors(TEXTS)
    model, tokens = AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for vector, text in zip(found, TEXTS, strict=True):
        with torch.no_grad():
            states = model.eval()(**tokens(text, return_tensors="pt")).last_hidden_state[0]
        wanted = states[0] if pooling is Pooling.CLS else states.mean(0)
        expected = (wanted / wanted.norm()).double().numpy()
        np.testing.assert_allclose(vector, expected, atol=1e-5)


def test_the_encoder_is_frozen_and_nothing_is_drawn(encoder: TextEncoder) -> None:
    first = encoder.vectors(TEXTS)
    torch.manual_seed(5)
    np.testing.assert_array_equal(encoder.vectors(TEXTS), first)
    assert not encoder._model.training
    assert not any(p.requires_grad for p in encoder._model.parameters())


def test_a_text_longer_than_the_model_reads_is_truncated(encoder: TextEncoder) -> None:
    long, longer = "alien " * 40, "alien " * 40 + "wedding"
    found = encoder.vectors([long, longer])
    np.testing.assert_allclose(found[0], found[1], atol=1e-6)


@pytest.mark.parametrize("marked", [True, False])
def test_blank_texts_are_zeros(tmp_path: Path, marked: bool) -> None:
    bare = TextEncoder(find_encoder(str(save_encoder(tmp_path / "bare", marked=marked))))
    for texts in (["", "Alien", "  "], ["", "Alien dawn in Rome", "\t", "Alien", "Sea"]):
        lengths = np.linalg.norm(bare.vectors(texts), axis=1)
        np.testing.assert_allclose(lengths, [float(bool(t.strip())) for t in texts], atol=1e-6)
    assert not bare.vectors(["", " "]).any()


def test_a_text_without_a_token_is_zeros_too(tmp_path: Path) -> None:
    bare = TextEncoder(find_encoder(str(save_encoder(tmp_path / "bare", marked=False))))
    assert not bare.vectors(["\u2028\u2028"]).any()
    lengths = np.linalg.norm(bare.vectors(["\u2028\u2028", "Alien"]), axis=1)
    np.testing.assert_allclose(lengths, [0, 1], atol=1e-6)


def test_progress_counts_distinct_texts(encoder: TextEncoder) -> None:
    told: list[tuple[int, int]] = []
    encoder.vectors([*TEXTS, *TEXTS, ""], batch_size=3, progress=lambda *n: told.append(n))
    assert told == [(3, 4), (4, 4)]


# --- features ----------------------------------------------------------------------------------


def test_the_same_encoder_gives_the_same_bits(folder: Path, encoder: TextEncoder) -> None:
    first = encoded_features(FILMS, encoder, 5)
    torch.manual_seed(1)
    again = encoded_features(FILMS, TextEncoder(find_encoder(str(folder))), 5)
    assert torch.equal(again, first)
    assert FILMS.with_features(again).fingerprint == FILMS.with_features(first).fingerprint


def test_another_encoder_gives_another_fingerprint(encoder: TextEncoder, tmp_path: Path) -> None:
    other = TextEncoder(find_encoder(str(save_encoder(tmp_path / "tiny", seed=1))))
    assert other.files.digest != encoder.files.digest
    ours, theirs = (FILMS.with_features(encoded_features(FILMS, e, 5)) for e in (encoder, other))
    assert ours.fingerprint != theirs.fingerprint


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_changes_no_more_than_rounding(
    encoder: TextEncoder, batch_size: int
) -> None:
    features = encoded_features(FILMS, encoder, 4, batch_size=batch_size)
    assert_close(features, encoded_features(FILMS, encoder, 4), rtol=0, atol=1e-4)


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize("size", [1, 4, 7, 64])
def test_directions_are_centred_uncorrelated_and_of_variance_one_or_zero(
    encoder: TextEncoder, size: int, words: bool
) -> None:
    features = encoded_features(FILMS, encoder, size, words=words)
    assert features.shape == (len(FILMS), size)
    assert features.dtype == torch.float32
    assert_close(features.mean(0), torch.zeros(size), rtol=0, atol=1e-5)
    most = len(FILMS) - 1  # fewer items than directions: the rest is zero
    expected = torch.diag((torch.arange(size) < most).float())
    assert_close(features.T @ features / len(FILMS), expected, rtol=1e-4, atol=1e-4)


def test_fewer_features_are_the_first_of_more(encoder: TextEncoder) -> None:
    many = encoded_features(FILMS, encoder, 6)
    assert torch.equal(encoded_features(FILMS, encoder, 3), many[:, :3])


def test_similar_texts_are_nearer_than_others(encoder: TextEncoder) -> None:
    features = encoded_features(FILMS, encoder, 3)
    alike = torch.nn.functional.cosine_similarity(features[:, None], features[None], dim=-1)
    assert alike[0, 1] > alike[0, 3:].max()
    assert alike[3, 4] > alike[3, [0, 1, 2, 6, 7]].max()


def test_an_item_without_text_is_the_average_one(encoder: TextEncoder) -> None:
    items = catalogue(("Alien", "Horror", None), ("", "", None), ("Rome", "", 1999), ("Sea", "", 1))
    features = encoded_features(items, encoder, 3)
    assert_close(features[1], torch.zeros(3), rtol=0, atol=1e-5)
    assert (features[[0, 2, 3]].norm(dim=1) > 0.5).all()


@pytest.mark.parametrize("words", [False, True])
@pytest.mark.parametrize(
    "items",
    [[("", "", None)] * 2, [("Alone", "Drama", 1990)], [("Same", "Drama", 1990)] * 3],
)
def test_a_catalogue_of_indistinguishable_items_has_zero_features(
    encoder: TextEncoder, items: list[tuple[str, str, int | None]], words: bool
) -> None:
    features = encoded_features(catalogue(*items), encoder, 3, words=words)
    assert torch.equal(features, torch.zeros(len(items), 3))


def test_words_tell_apart_what_the_encoder_cannot(encoder: TextEncoder) -> None:
    """Words that its tokenizer does not know are one to it."""
    unknown = [f"{a} {b}" for a in ("Quux", "Frob") for b in ("gnat", "gnu", "gnome")]
    items = catalogue(*((title, "", None) for title in [*unknown, "Quux frob"]))
    assert torch.equal(encoded_features(items, encoder, 2), torch.zeros(7, 2))
    both = encoded_features(items, encoder, 2, words=True)
    assert both.any()
    assert both.shape == text_features(items, 2).shape


# --- bad encoders ------------------------------------------------------------------------------


def test_neither_a_folder_nor_a_hub_id_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    for given, message in [
        (str(tmp_path / "absent"), "there is no such folder"),
        (str(file), "it is a file"),
        ("three/part/name", "there is no such folder"),
        ("", "no config.json|no such folder"),
    ]:
        with pytest.raises(DataError, match=message):
            find_encoder(given)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["config.json"], "holds no config.json"),
        (["tokenizer.json"], "holds no tokenizer"),
        (["model.safetensors"], r"holds no weights in a \.safetensors file"),
    ],
)
def test_a_missing_file_is_named(broken: Path, files: list[str], message: str) -> None:
    for name in files:
        (broken / name).unlink()
    with pytest.raises(DataError, match=message):
        find_encoder(str(broken))


def test_pickled_weights_are_never_opened(broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    torch.save(weights, broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"only pytorch_model\.bin, a pickle.*save_pretrained"):
        find_encoder(str(broken))


def test_code_that_comes_with_a_model_is_never_run(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModel": "own.M"}}
    (broken / "config.json").write_text(json.dumps(config))
    (broken / "own.py").write_text(f"open({str(broken / 'ran')!r}, 'w')")
    with pytest.raises(DataError, match="cannot load it"):
        TextEncoder(find_encoder(str(broken)))
    assert not (broken / "ran").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_damaged_files_are_refused(broken: Path, name: str) -> None:
    (broken / name).write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"broken.*cannot load it"):
        TextEncoder(find_encoder(str(broken)))


def test_missing_weights_are_an_error_and_not_initialised(broken: Path) -> None:
    """transformers would draw them at random."""
    weights = load_file(broken / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "layer.1." not in key}
    save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="its weights lack"):
        TextEncoder(find_encoder(str(broken)))


def test_an_unused_pooler_may_be_missing(broken: Path, encoder: TextEncoder) -> None:
    weights = load_file(broken / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "pooler" not in key}
    assert len(kept) < len(weights)
    save_file(kept, broken / "model.safetensors", metadata={"format": "pt"})
    found = TextEncoder(find_encoder(str(broken))).vectors(TEXTS)
    np.testing.assert_array_equal(found, encoder.vectors(TEXTS))


def test_a_tokenizer_of_another_model_is_refused(broken: Path) -> None:
    larger = tokenizer()
    larger.add_tokens(["more", "words"])
    larger.save_pretrained(broken)
    with pytest.raises(DataError, match="knows more tokens than the model"):
        TextEncoder(find_encoder(str(broken)))


def test_a_tokenizer_that_cannot_pad_is_refused(broken: Path) -> None:
    bare = tokenizer()
    bare.pad_token = None
    bare.save_pretrained(broken)
    with pytest.raises(DataError, match="no padding token"):
        TextEncoder(find_encoder(str(broken)))


def test_a_model_that_needs_more_than_a_text_is_refused(tmp_path: Path) -> None:
    from transformers import T5Config, T5Model  # noqa: PLC0415 takes seconds

    folder = tmp_path / "t5"
    words = tokenizer()
    words.save_pretrained(folder)
    T5Model(
        T5Config(vocab_size=len(words), d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    ).save_pretrained(folder)
    with pytest.raises(DataError, match="does not encode texts"):
        TextEncoder(find_encoder(str(folder)))


def test_weights_that_are_not_finite_are_refused(broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][:] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="not finite"):
        TextEncoder(find_encoder(str(broken)))


def test_a_hub_that_cannot_be_reached_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = functools.partial(
        huggingface_hub.snapshot_download, endpoint="http://127.0.0.1:9", cache_dir=tmp_path
    )
    monkeypatch.setattr(encoder_files, "snapshot_download", nowhere)
    with pytest.raises(FetchError, match=r"hf download some/model --local-dir FOLDER"):
        find_encoder("some/model")


def test_a_hub_id_is_downloaded_without_pickles_and_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, object] = {}

    def download(name: str, **options: object) -> str:
        asked.update(options | {"name": name})
        return str(folder)

    monkeypatch.setattr(encoder_files, "snapshot_download", download)
    found = find_encoder("some/model")
    assert (found.name, found.folder) == ("some/model", folder)
    assert found.digest == find_encoder(str(folder)).digest
    assert asked["allow_patterns"] == ["*.json", "*.txt", "*.model", "*.safetensors"]


def test_the_digest_covers_the_files_that_are_read(broken: Path, folder: Path) -> None:
    digest = find_encoder(str(folder)).digest
    (broken / "README.md").write_text("Read me.")
    assert find_encoder(str(broken)).digest == digest
    config = broken / "config.json"
    config.write_text(config.read_text() + " ")
    assert find_encoder(str(broken)).digest != digest
