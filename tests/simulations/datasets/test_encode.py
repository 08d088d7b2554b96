"""Encoded features: when they are computed, when refused, and a simulation that uses them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from shared.config import ModelConfig, PrivacyConfig
from shared.data.catalogue import Catalogue
from shared.errors import ConfigError, DataError
from shared.item_features.encoder import Pooling
from shared.item_features.tfidf import text_features
from simulations.datasets.encode import Encoding, encode
from simulations.datasets.load import load_items
from simulations.experiment.config import LabConfig, SimulationConfig
from simulations.experiment.prepare import prepare, reopen
from simulations.experiment.public_knowledge import add_features
from simulations.experiment.simulate import simulate
from tests.simulations.experiment.test_simulate import Silent, settings
from tests.tiny_encoder import save_encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(tmp_path_factory.mktemp("encoders") / "tiny")


@pytest.fixture
def items(tiny_data: Path) -> Catalogue:
    return load_items(tiny_data)


def encoding(encoder: Path, **changes: object) -> Encoding:
    return replace(Encoding(encoder=str(encoder), size=6, device="cpu"), **changes)  # type: ignore[arg-type]


def test_what_is_written_says_how_it_was_made(
    items: Catalogue, encoder: Path, tmp_path: Path
) -> None:
    made, anew = encode(items, encoding(encoder), tmp_path / "out")
    assert anew
    loaded = Catalogue.load(tmp_path / "out")
    assert loaded.fingerprint == made.fingerprint
    assert loaded.without_features().fingerprint == items.fingerprint
    assert loaded.feature_size == 6
    source = loaded.source
    assert source is not None
    assert (source.encoder, source.pooling, source.words) == ("tiny", "mean", False)
    assert (source.size, source.template, len(source.digest)) == (6, 1, 64)
    assert source.transformers[0].isdigit()


def test_the_same_inputs_are_not_encoded_twice(
    items: Catalogue, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first, _ = encode(items, encoding(encoder), out)
    before = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    monkeypatch.setattr("simulations.datasets.encode.TextEncoder", pytest.fail)
    moved = tmp_path / "moved"
    moved.mkdir()
    for file in encoder.iterdir():
        (moved / file.name).write_bytes(file.read_bytes())
    for again in (encoding(encoder), encoding(moved, batch_size=1)):
        found, anew = encode(items, again, out)
        assert not anew
        assert found.fingerprint == first.fingerprint
    assert {file: file.stat().st_mtime_ns for file in out.iterdir()} == before


def test_two_runs_write_the_same_bits(items: Catalogue, encoder: Path, tmp_path: Path) -> None:
    made = [encode(items, encoding(encoder), tmp_path / name)[0] for name in "ab"]
    first, second = (catalogue.features for catalogue in made)
    assert first is not None
    assert second is not None
    assert first.numpy().tobytes() == second.numpy().tobytes()
    assert made[0].fingerprint == made[1].fingerprint


def test_words_alone_are_tf_idf_and_need_no_encoder(items: Catalogue, tmp_path: Path) -> None:
    made, _ = encode(items, Encoding(words=True, size=5), tmp_path / "out")
    assert made.features is not None
    assert torch.equal(made.features, text_features(items, 5))
    assert made.source is not None
    assert (made.source.encoder, made.source.digest, made.source.pooling) == ("", "", "")


def test_each_way_has_a_fingerprint_of_its_own(
    items: Catalogue, encoder: Path, tmp_path: Path
) -> None:
    ways = [
        encoding(encoder),
        encoding(encoder, words=True),
        encoding(encoder, pooling=Pooling.CLS),
        encoding(encoder, size=5),
        encoding(save_encoder(tmp_path / "other" / "tiny", seed=1)),
        Encoding(words=True, size=6),
    ]
    made = [encode(items, way, tmp_path / f"out{n}")[0] for n, way in enumerate(ways)]
    assert len({catalogue.fingerprint for catalogue in made}) == len(ways)
    assert len({catalogue.source for catalogue in made}) == len(ways)


def test_nothing_is_overwritten(
    items: Catalogue, encoder: Path, tmp_path: Path, tiny_data: Path
) -> None:
    out = tmp_path / "out"
    encode(items, encoding(encoder), out)
    before = Catalogue.load(out).fingerprint
    other = replace(items, titles=("Another", *items.titles[1:]))
    for given, way, message in [
        (items, encoding(encoder, size=5), "holds features computed with size 6"),
        (items, encoding(encoder, words=True), "holds features computed with words False"),
        (
            items,
            encoding(save_encoder(tmp_path / "b", seed=1)),
            "holds features computed with digest",
        ),
        (other, encoding(encoder), "holds other items"),
        (items, encoding(encoder, adaptable=1), "holds features with --adaptable 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            encode(given, way, out)
    assert Catalogue.load(out).fingerprint == before
    with pytest.raises(ConfigError, match="neither empty nor a catalogue"):
        encode(items, encoding(encoder), tiny_data)
    items.save(tmp_path / "bare")
    with pytest.raises(ConfigError, match="that this command did not write"):
        encode(items, encoding(encoder), tmp_path / "bare")


def test_a_folder_that_is_no_encoder_leaves_nothing_behind(
    items: Catalogue, tiny_data: Path, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"holds no config\.json"):
        encode(items, encoding(tiny_data), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "--size 0"),
        ({"batch_size": -1}, "--batch-size -1"),
        ({"adaptable": -1}, "--adaptable -1: choose"),
        ({"tokens": 7}, "--tokens 7: choose a whole number from 8"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    encoder: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        encoding(encoder, **changes)


def test_blocks_are_an_encoders() -> None:
    with pytest.raises(ConfigError, match=r"--adaptable 1: .* above 0 with --encoder"):
        Encoding(words=True, adaptable=1)


@pytest.mark.parametrize("device", ["abacus", "meta:nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(encoder: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"--device {device} is not there"):
        encoding(encoder, device=device).torch_device()


# --- in a simulation ---------------------------------------------------------------------------


def test_a_simulation_runs_on_encoded_features(
    tiny_data: Path, items: Catalogue, encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "catalogue"
    made, _ = encode(items, encoding(encoder), out)
    assert made.features is not None
    config = settings(tiny_data, f"lab.catalogue={out}")  # of whose 6 features it takes 4
    simulation = prepare(config, tmp_path / "run")
    stored = Catalogue.load(tmp_path / "run" / "catalogue")
    assert stored.features is not None
    assert torch.equal(stored.features, made.features[:, :4])
    assert stored.source is not None
    assert (stored.source.encoder, stored.source.size) == ("tiny", 4)
    result = simulate(simulation, Silent())
    assert result["evaluation"]["models"]["federated"]["ndcg@10"] >= 0
    assert reopen(tmp_path / "run", {}, []).dataset.catalogue.fingerprint == stored.fingerprint


def test_a_run_keeps_its_own_features_after_another_encoding(
    tiny_data: Path, items: Catalogue, encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "catalogue"
    encode(items, encoding(encoder), out)
    began = prepare(settings(tiny_data, f"lab.catalogue={out}"), tmp_path / "run")
    other, _ = encode(
        items, encoding(save_encoder(tmp_path / "other", seed=1)), tmp_path / "elsewhere"
    )
    other.save(out)
    own = reopen(tmp_path / "run", {}, []).dataset.catalogue
    assert own.fingerprint == began.dataset.catalogue.fingerprint != other.fingerprint


def test_features_of_other_items_or_too_few_are_refused(
    items: Catalogue, encoder: Path, tmp_path: Path
) -> None:
    encode(items, encoding(encoder), tmp_path / "out")
    items.save(tmp_path / "bare")
    other = replace(items, titles=("Another", *items.titles[1:]))
    for given, folder, size, message in [
        (other, "out", 4, "holds other items than the data"),
        (items, "out", 7, "feature_size = 7, but the catalogue in .* has 6 features"),
        (items, "bare", 4, "has 0 features"),
    ]:
        with pytest.raises(ConfigError, match=message):
            add_features(given, reading(tmp_path / folder, size))
    with pytest.raises(DataError, match="does not exist"):
        add_features(items, reading(tmp_path / "absent", 4))


def reading(folder: Path, size: int) -> SimulationConfig:
    """Settings of a run that takes its features from a folder."""
    privacy = PrivacyConfig(epsilon=8.0, delta=1e-3)
    lab = LabConfig(catalogue=str(folder))
    return SimulationConfig(privacy=privacy, model=ModelConfig(feature_size=size), lab=lab)


IDS = (
    "model.items=ids",
    "model.hidden_size=8",
    "model.trained=all",
    "warm_start.share=0",
)


def test_features_that_nothing_reads_are_refused(tiny_data: Path, tmp_path: Path) -> None:
    config = settings(tiny_data, f"lab.catalogue={tmp_path}", *IDS)
    with pytest.raises(ConfigError, match=r"model\.items = 'ids' reads no features"):
        prepare(config, tmp_path / "run")


def test_texts_whose_encoder_is_adapted_are_cut(
    items: Catalogue, encoder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "catalogue"
    cut, _ = encode(items, encoding(encoder, adaptable=1, tokens=8), out)
    whole, _ = encode(items, encoding(encoder, adaptable=1), tmp_path / "whole")
    assert cut.text is not None
    assert whole.text is not None
    assert cut.text.longest == 8 < whole.text.longest
    assert torch.equal(cut.text.lengths, whole.text.lengths.clamp(max=8))
    assert cut.features is not None
    assert whole.features is not None
    assert torch.equal(cut.features, whole.features)
    with pytest.raises(ConfigError, match=f"holds texts of {whole.text.longest} tokens"):
        encode(items, encoding(encoder, adaptable=1, tokens=8), tmp_path / "whole")
    assert not encode(items, encoding(encoder, adaptable=1, tokens=8), out)[1]
