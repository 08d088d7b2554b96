import datetime
import json
import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.config import (
    Aggregation,
    ItemRepresentation,
    ModelConfig,
    Optimiser,
    PathsConfig,
    PrivacyConfig,
    RunConfig,
    ServerConfig,
    StrategyName,
    Trained,
    TrainingConfig,
    WarmStartConfig,
    Weighting,
)
from shared.errors import ConfigError
from shared.sections import Value, flat_tables, flatten

PRIVACY = PrivacyConfig(epsilon=8.0, delta=1e-5)
COLD = RunConfig(
    privacy=PRIVACY,
    model=ModelConfig(hidden_size=64, heads=2, trained=Trained.ALL),
    warm_start=WarmStartConfig(share=0.0),
    training=TrainingConfig(rounds=60),
)
FLAT = COLD.to_flat()
FLOATS = [key for key, value in FLAT.items() if isinstance(value, float)]
INTS = [key for key, value in FLAT.items() if type(value) is int]
NUMBER_OR_NONE = ("privacy.colluding", "over_use.events")
TEXTS = [key for key, value in FLAT.items() if isinstance(value, str) and key not in NUMBER_OR_NONE]
SWITCHES = [key for key, value in FLAT.items() if isinstance(value, bool)]

counts = st.integers(1, 2**31)
positive = st.floats(min_value=0, exclude_min=True, allow_nan=False, allow_infinity=False)
shares = st.floats(0, 1, exclude_max=True)
chances = st.floats(0, 1, exclude_min=True)


@st.composite
def models(draw: st.DrawFn, *, warm: bool) -> ModelConfig:
    heads = 1 if warm else draw(st.integers(1, 8))
    features = ItemRepresentation.FEATURES
    items = features if warm else draw(st.sampled_from(ItemRepresentation))
    own = draw(st.sets(st.integers(1, 10**6), max_size=9))
    trained = draw(st.sampled_from(Trained)) if items is features else Trained.ALL
    return ModelConfig(
        items=items,
        tied=draw(st.booleans()),
        item_bias=draw(st.booleans()),
        feature_size=draw(counts),
        own_items=tuple(sorted(own)),
        hidden_size=0 if warm else heads * draw(st.integers(1, 99)),
        layers=1 if trained is Trained.ATTENTION else draw(counts),
        heads=heads,
        recency=draw(chances),
        max_length=draw(counts),
        dropout=draw(shares),
        attention_size=draw(counts),
        trained=trained,
    )


privacies = st.builds(
    PrivacyConfig,
    epsilon=st.none(),
    delta=st.floats(0, 1, exclude_min=True, exclude_max=True),
)


@st.composite
def configs(draw: st.DrawFn) -> RunConfig:
    share = draw(st.sampled_from([0.0, 0.3, 0.9]))
    warm_start = WarmStartConfig(
        share=share, own_items=draw(st.integers(0, 10**6)), steps=draw(st.integers(0, 99))
    )
    model = draw(models(warm=share > 0))
    return replace(draw(runs), model=model, warm_start=warm_start)


runs = st.builds(
    RunConfig,
    privacy=privacies,
    training=st.builds(
        TrainingConfig,
        rounds=counts,
        local_steps=counts,
        sample_rate=chances,
        clip_norm=positive,
        optimiser=st.sampled_from(Optimiser),
        learning_rate=positive,
        weight_decay=st.floats(0, 1e9),
        candidates=st.integers(0, 10**6),
    ),
    server=st.builds(
        ServerConfig,
        strategy=st.sampled_from(StrategyName),
        learning_rate=positive,
        momentum=shares,
        tau=positive,
        weighting=st.sampled_from(Weighting),
        aggregation=st.sampled_from(Aggregation),
        malicious=st.integers(0, 99),
        retries=st.integers(0, 99),
        retry_seconds=st.floats(0, 1e6),
        mlflow=st.text(),
        organisations=counts,
        quorum=chances,
        deadline_seconds=positive,
        max_update_norm=positive,
    ),
    paths=st.builds(
        PathsConfig, catalogue=st.text(), out=st.text(), resume=st.booleans(), sites=st.text()
    ),
    seed=st.integers(0, 2**63 - 1),
)


def with_another(key: str) -> dict[str, Value]:
    """`FLAT` with another value that fits the key; a warm start is as wide as its features."""
    fitting: dict[str, dict[str, Value]] = {
        "warm_start.share": {"model.hidden_size": 0},
        "privacy.trust": {"server.organisations": 8, "server.weighting": "population"},
        "training.patience": {"server.evaluate_every": 2},
        "groups.share": {"groups.tables": "gender=F|M", "privacy.epsilon": 8.0},
        "groups.robust": {
            "groups.tables": "gender=F|M",
            "groups.share": 0.1,
            "privacy.epsilon": 8.0,
        },
    }
    return FLAT | fitting.get(key, {}) | {key: changed(key)}


def changed(key: str) -> Value:
    """Another value that fits the key."""
    chosen: dict[str, Value] = {
        "privacy.trust": "secure-aggregation",
        "privacy.colluding": 2,
        "privacy.masking": "off",
        "model.kind": "lstm",
        "model.items": "ids",
        "model.own_items": "3,17",
        "model.trained": "scores",
        "model.heads": 4,
        "model.hidden_size": 128,
        "training.optimiser": "adam",
        "training.decay": "linear",
        "server.strategy": "fedavgm",
        "server.weighting": "population",
        "server.aggregation": "median",
        "groups.tables": "gender=F|M x age=18|25; events=20",
        "groups.weights": "gender=F|M: 1, 0.5, 1",
        "over_use.until": "2026-11-01",
        "over_use.label": "column",
        "over_use.events": 5,
    }
    if key in chosen:
        return chosen[key]
    value = FLAT[key]
    if isinstance(value, bool):
        return not value
    return value + 1 if isinstance(value, int) else 0.37 if isinstance(value, float) else "else"


# --- round trip --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(configs())
def test_flat_and_back_is_the_same(config: RunConfig) -> None:
    flat = config.to_flat()
    assert RunConfig.from_flat(flat) == config
    assert {type(value) for value in flat.values()} <= {int, float, bool, str}
    assert RunConfig.from_flat(json.loads(json.dumps(flat))).fingerprint == config.fingerprint


def test_every_key_is_read() -> None:
    for key in FLAT:
        assert RunConfig.from_flat(with_another(key)).to_flat() == with_another(key)


def test_what_is_not_said_takes_its_default() -> None:
    config = RunConfig.from_flat({"privacy.epsilon": 8.0, "privacy.delta": 1e-5})
    assert config == RunConfig(privacy=PRIVACY)


def test_a_config_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        PRIVACY.delta = 0.5  # type: ignore[misc]


def test_steps_are_those_of_all_rounds() -> None:
    assert TrainingConfig(rounds=7, local_steps=3).steps == 21


# --- privacy has no default --------------------------------------------------------------------


@pytest.mark.parametrize("key", ["privacy.epsilon", "privacy.delta"])
def test_what_decides_privacy_must_be_stated(key: str) -> None:
    with pytest.raises(ConfigError, match=rf"'{key}' is not set, .* no default: state it"):
        RunConfig.from_flat({name: value for name, value in FLAT.items() if name != key})


def test_none_trains_without_privacy() -> None:
    config = RunConfig.from_flat(FLAT | {"privacy.epsilon": "none"})
    assert config.privacy.epsilon is None
    assert not config.privacy.private
    assert config.to_flat()["privacy.epsilon"] == "none"
    assert RunConfig(privacy=PRIVACY).privacy.private


def test_ids_are_tied_and_ranked_among_the_whole_catalogue_by_default() -> None:
    config = RunConfig(privacy=PRIVACY)
    assert config.model.tied
    assert config.training.candidates == 0


# --- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("training.round", "training.rounds"),
        ("privacy.eps", "privacy.epsilon"),
        ("model.head", "model.heads"),
        ("Seed", "seed"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(key: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"unknown .* '{key}' = 3: did you mean '{near}'\?"):
        RunConfig.from_flat(FLAT | {key: 3})


def test_an_unknown_key_far_from_all_gets_the_list() -> None:
    with pytest.raises(ConfigError, match=r"unknown configuration key 'zzz'") as caught:
        RunConfig.from_flat(FLAT | {"zzz": 1})
    assert all(key in str(caught.value) for key in FLAT)


@pytest.mark.parametrize("section", ["privacy", "model", "training", "server", "paths"])
def test_a_section_is_no_key(section: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown configuration key '{section}'"):
        RunConfig.from_flat(FLAT | {section: 1})


@pytest.mark.parametrize(
    ("keys", "bad"),
    [
        (INTS, [True, 3.0, "3", ""]),
        (FLOATS, [True, "0.5", "nan", ""]),
        (SWITCHES, [1, 0, "true", 1.0]),
        (TEXTS, [1, 1.0, True]),
    ],
    ids=["whole numbers", "numbers", "switches", "texts"],
)
def test_a_value_of_another_type_is_refused(keys: list[str], bad: list[Value]) -> None:
    assert keys
    for key in keys:
        for value in bad:
            with pytest.raises(ConfigError) as caught:
                RunConfig.from_flat(FLAT | {key: value})
            assert f"{key} = {value!r} does not fit: it takes " in str(caught.value)


@pytest.mark.parametrize(
    "key",
    [
        "model.items",
        "training.optimiser",
        "training.decay",
        "server.strategy",
        "server.weighting",
        "server.aggregation",
    ],
)
@pytest.mark.parametrize("value", ["", "none", "IDS", "fedprox"])
def test_a_choice_lists_what_there_is(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=r"it takes '\w+' or '\w+'"):
        RunConfig.from_flat(FLAT | {key: value})


@pytest.mark.parametrize("key", FLOATS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_may_be_nan_or_infinite(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"{key} = {value}: choose"):
        RunConfig.from_flat(FLAT | {key: value})


def test_a_whole_number_is_a_number() -> None:
    whole = RunConfig.from_flat(FLAT | {"privacy.epsilon": 8})
    assert whole.fingerprint == RunConfig.from_flat(FLAT).fingerprint


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("privacy.epsilon", [0.0, -1.0]),
        ("privacy.delta", [0.0, 1.0, -1e-9]),
        ("model.feature_size", [0]),
        ("model.hidden_size", [-2]),
        ("model.layers", [0]),
        ("model.heads", [0]),
        ("model.max_length", [0]),
        ("model.recency", [0.0, 1.01]),
        ("model.dropout", [-0.1, 1.0]),
        ("warm_start.share", [-0.1, 1.0]),
        ("warm_start.own_items", [-1]),
        ("warm_start.steps", [-1]),
        ("training.rounds", [-1]),
        ("training.local_steps", [0]),
        ("training.sample_rate", [0.0, 1.0001]),
        ("training.clip_norm", [0.0, -1.0]),
        ("training.learning_rate", [0.0]),
        ("training.weight_decay", [-1e-9]),
        ("training.candidates", [-1]),
        ("server.learning_rate", [0.0]),
        ("server.momentum", [-0.1, 1.0]),
        ("server.tau", [0.0]),
        ("server.organisations", [0]),
        ("server.quorum", [0.0, 1.01]),
        ("server.deadline_seconds", [0.0]),
        ("server.max_update_norm", [0.0]),
        ("server.max_population", [0]),
        ("server.evaluate_every", [-1]),
        ("server.malicious", [-1]),
        ("server.retries", [-1]),
        ("server.retry_seconds", [-0.1]),
        ("seed", [-1]),
    ],
)
def test_a_value_out_of_range_is_refused_with_the_remedy(key: str, values: list[Value]) -> None:
    for value in values:
        with pytest.raises(ConfigError, match=rf"^{key} = {value}: choose"):
            RunConfig.from_flat(FLAT | {key: value})


def test_the_width_is_shared_out_among_the_heads() -> None:
    with pytest.raises(
        ConfigError, match=r"hidden_size = 64 .* model\.heads = 3: choose a multiple"
    ):
        RunConfig.from_flat(FLAT | {"model.heads": 3})


# --- identity ----------------------------------------------------------------------------------


OF_OVER_USE = [key for key in FLAT if key.startswith("over_use.")]


@pytest.mark.parametrize("key", OF_OVER_USE)
def test_what_is_read_of_users_shapes_a_model_of_over_use_alone(key: str) -> None:
    kind = {"model.kind": "over-use", "over_use.until": "2026-10-01"}
    changed_key = {key: changed(key)}
    assert (
        RunConfig.from_flat(FLAT | kind | changed_key).fingerprint
        != RunConfig.from_flat(FLAT | kind).fingerprint
    )
    recommender = RunConfig.from_flat(FLAT | changed_key)
    assert recommender.fingerprint == RunConfig.from_flat(FLAT).fingerprint
    assert recommender.task_text == ""


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"over_use.until": ""}, "over_use.until is not set"),
        ({"over_use.until": "soon"}, "over_use.until = 'soon': give a date"),
        ({"over_use.hours": "none"}, "the rule counts nothing"),
        ({"over_use.days": 30}, "over_use.days = 30"),
        ({"over_use.utc_offset_hours": 15.0}, "over_use.utc_offset_hours = 15.0"),
        ({"warm_start.share": 0.5}, "which has no warm start"),
        ({"training.debias": 0.5}, "which ranks nothing"),
        ({"groups.tables": "a=b|c", "groups.share": 0.1, "privacy.epsilon": 8.0}, "ranks nothing"),
    ],
)
def test_a_model_of_over_use_has_neither_statistics_nor_rankings(
    changes: dict[str, Value], problem: str
) -> None:
    kind: dict[str, Value] = {"model.kind": "over-use", "over_use.until": "2026-10-01"}
    with pytest.raises(ConfigError, match=problem):
        RunConfig.from_flat(FLAT | kind | changes)


@pytest.mark.parametrize("key", [key for key in FLAT if key not in OF_OVER_USE])
def test_the_fingerprint_is_that_of_what_shapes_the_result(key: str) -> None:
    other = RunConfig.from_flat(with_another(key))
    free = key.startswith("paths.") or key in (
        *("privacy.colluding", "privacy.dropouts", "privacy.masking"),  # of local trust
        "server.deadline_seconds",
        "server.max_population",
        "server.mlflow",
        "server.quorum",
        "server.retries",
        "server.retry_seconds",
        "model.recurrent_size",  # of kind "lstm" alone
        "model.query_size",  # of kind "query" alone
        *("model.text_width", "model.text_blocks", "model.lora_rank"),  # of kind "text" alone
        "model.friends",  # of kind "social" alone
        "model.attention_size",  # where attention alone is trained beside the scores
        "server.users",  # what a plan chose shapes the result
    )
    assert (other.fingerprint == RunConfig.from_flat(FLAT).fingerprint) is free


def test_fingerprints_of_earlier_versions_hold() -> None:
    """A checkpoint names the fingerprint of its run: a changed one could not be resumed."""
    stored = json.loads(
        Path(__file__).with_name("stored").joinpath("fingerprints.json").read_text()
    )
    assert len(stored) == 9
    default = {"model.trained": "scores"}  # in all of these; a run's folder states every setting
    for run in stored:
        assert RunConfig.from_flat(default | run["flat"]).fingerprint == run["fingerprint"]


# --- tables ------------------------------------------------------------------------------------


def test_tables_become_dotted_keys() -> None:
    assert flat_tables({"a": {"b": {"c": 1.5}, "d": "x"}, "e": True}) == {
        "a.b.c": 1.5,
        "a.d": "x",
        "e": True,
    }
    assert flat_tables({}) == {}


@pytest.mark.parametrize("value", [[1, 2], [], datetime.date(2024, 5, 1), None])
def test_a_table_holds_plain_values(value: object) -> None:
    with pytest.raises(ConfigError, match=r"'model\.heads' = .*: a plain value is wanted"):
        flat_tables({"model": {"heads": value}})


def test_flatten_takes_any_dataclass() -> None:
    assert flatten(PRIVACY) == {
        **{"epsilon": 8.0, "delta": 1e-5, "trust": "local", "colluding": "none"},
        **{"dropouts": 0, "masking": "on"},
    }


@pytest.mark.parametrize("own", ["3,2", "0,1", "4,4"])
def test_own_items_are_internal_ids_in_order(own: str) -> None:
    with pytest.raises(ConfigError, match=r"model\.own_items = .*: give internal ids, ascending"):
        RunConfig.from_flat(FLAT | {"model.own_items": own})


def test_a_warm_start_is_as_wide_as_what_describes_an_item() -> None:
    model = ModelConfig(feature_size=30, own_items=(2, 5))
    assert (model.described, model.width) == (32, 32)
    assert ModelConfig(feature_size=30, hidden_size=8).width == 8


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"model.items": "ids", "model.hidden_size": 0}, "model.hidden_size = 0 is as wide as"),
        ({"model.items": "ids", "model.trained": "scores"}, "model.trained = 'scores' with"),
        ({"warm_start.share": 0.5}, "model.hidden_size = 64 with a warm start"),
        ({"training.rounds": 0}, "training.rounds = 0 and warm_start.share = 0: nothing would be"),
        (
            {"warm_start.share": 0.5, "model.items": "both", "model.hidden_size": 8},
            "model.hidden_size = 8 with a warm start",
        ),
        ({"warm_start.share": 0.5, "model.items": "ids"}, "a warm start needs item features"),
    ],
)
def test_what_does_not_go_together_is_refused(change: dict[str, Value], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        RunConfig.from_flat(FLAT | change)


def test_statistics_get_all_where_nothing_follows() -> None:
    alone = RunConfig(privacy=PRIVACY, training=TrainingConfig(rounds=0))
    assert (alone.noised_sums, alone.statistics_share) == (0, 1.0)
    trained = RunConfig(privacy=PRIVACY, training=TrainingConfig(rounds=2))
    assert trained.statistics_share == trained.warm_start.share == 0.7
    assert COLD.statistics_share == 0


@pytest.mark.parametrize(("every", "sums"), [(0, 30), (1, 40), (3, 33), (10, 31), (11, 30)])
def test_an_evaluation_counts_as_a_step(every: int, sums: int) -> None:
    config = RunConfig(
        privacy=PRIVACY,
        warm_start=WarmStartConfig(share=0.5),
        training=TrainingConfig(rounds=10, local_steps=3),
        server=ServerConfig(evaluate_every=every),
    )
    assert config.noised_sums == sums


def test_metrics_are_not_asked_for_without_noise() -> None:
    with pytest.raises(ConfigError, match=r"server\.evaluate_every = 2 without privacy"):
        RunConfig(
            privacy=PrivacyConfig(epsilon=None, delta=1e-5), server=ServerConfig(evaluate_every=2)
        )


def test_patience_needs_metrics_and_belongs_to_a_runs_identity() -> None:
    with pytest.raises(ConfigError, match=r"training\.patience = 2 without noised metrics"):
        RunConfig(privacy=PRIVACY, training=TrainingConfig(rounds=9, patience=2))
    metrics = ServerConfig(evaluate_every=1)
    plain = RunConfig(privacy=PRIVACY, training=TrainingConfig(rounds=9), server=metrics)
    patient = replace(plain, training=TrainingConfig(rounds=9, patience=2))
    assert patient.noised_sums == plain.noised_sums == 18  # ε is planned for all rounds
    assert patient.fingerprint != plain.fingerprint
    assert "training.patience" not in plain.identity


# --- secure aggregation --------------------------------------------------------------------------

SECURE = FLAT | {
    "privacy.trust": "secure-aggregation",
    "server.organisations": 8,
    "server.weighting": "population",
}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"server.organisations": 4, "privacy.colluding": 2}, "5 or more are needed"),
        ({"privacy.dropouts": 3}, r"colluding \+ 2 dropouts"),
        ({"server.aggregation": "median", "server.malicious": 1}, "nobody sees them"),
        ({"training.local_steps": 2}, "one plain step"),
        ({"training.optimiser": "adam"}, "one plain step"),
        ({"server.weighting": "equal"}, "over all users alike"),
    ],
)
def test_what_secure_aggregation_cannot_keep_is_refused(
    changes: dict[str, Value], match: str
) -> None:
    RunConfig.from_flat(FLAT | changes | {"server.organisations": 8})  # with local trust
    with pytest.raises(ConfigError, match=match):
        RunConfig.from_flat(SECURE | changes)


def test_shares_are_those_of_the_honest_that_stay() -> None:
    config = RunConfig.from_flat(SECURE | {"privacy.dropouts": 1})
    assert config.privacy.honest_shares(8) == 8 - 2 - 1
    assert PRIVACY.honest_shares(8) == 1
    without_privacy = RunConfig.from_flat(SECURE | {"privacy.epsilon": "none"})
    assert not without_privacy.privacy.secure
