from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.sections import flatten
from simulations.commands.settings import settings
from simulations.experiment.config import SimulationConfig, read_settings

PRIVATE = {"privacy.epsilon": 8, "privacy.delta": 1e-5}


def test_what_is_given_later_wins(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("seed = 1\n[privacy]\nepsilon = 2\ndelta = 1e-6\n[training]\nrounds = 3\n")

    config = read_settings(file, {"training.rounds": 5, "seed": None}, ["privacy.epsilon=4.5"])

    assert (config.seed, config.training.rounds) == (1, 5)
    assert (config.privacy.epsilon, config.privacy.delta) == (4.5, 1e-6)


@pytest.mark.parametrize("missing", ["privacy.epsilon", "privacy.delta"])
def test_what_decides_privacy_has_no_default(missing: str) -> None:
    options = {key: value for key, value in PRIVATE.items() if key != missing}
    with pytest.raises(ConfigError, match=f"{missing} has no default: state it with --"):
        read_settings(None, options, [])


def test_without_privacy_no_delta_is_wanted() -> None:
    assert read_settings(None, {"privacy.epsilon": "none"}, []).privacy.epsilon is None


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("rounds", "write --set section.key=value"),
        ("=3", "write --set section.key=value"),
        ("training.round=3", "did you mean 'training.rounds'"),
        ("training.rounds=many", "training.rounds = 'many' does not fit: it takes a whole number"),
        ("training.local_steps=0", "choose a whole number >= 1"),
        ("privacy.epsilon=0", "privacy.epsilon = 0.0: choose a positive number"),
        ("privacy.epsilon=-1", "choose a positive number"),
        ("privacy.epsilon=nan", "choose a positive number"),
        ("lab.engine=colour", "it takes 'inprocess' or 'ray'"),
    ],
)
def test_an_assignment_that_does_not_fit_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings(None, PRIVATE, [assignment])


def test_texts_need_no_quotes() -> None:
    config = read_settings(None, PRIVATE, ["lab.data=some/folder", 'server.strategy="fedavg"'])
    assert (config.lab.data, str(config.server.strategy)) == ("some/folder", "fedavg")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_settings(tmp_path / "absent.toml", PRIVATE, [])
    broken = tmp_path / "broken.toml"
    broken.write_text("[privacy\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        read_settings(broken, PRIVATE, [])


def test_settings_survive_being_written(tmp_path: Path) -> None:
    config = read_settings(None, PRIVATE, ['lab.data=a "quoted" folder', "seed=7"])
    file = tmp_path / "config.toml"
    file.write_text(config.to_toml())
    assert read_settings(file, {}, []) == config


def test_every_setting_is_listed_with_its_meaning() -> None:
    config = read_settings(None, PRIVATE, [])
    listed = {setting.key: setting for setting in settings()}
    assert set(listed) == set(flatten(config))
    assert all(setting.meaning for setting in listed.values())
    given = {key: value for key, value in flatten(config).items() if key not in PRIVATE}
    assert {key: listed[key].default for key in given} == given
    assert listed["privacy.epsilon"].default is None


def test_the_run_is_that_of_the_settings(tmp_path: Path) -> None:
    config = read_settings(None, PRIVATE, ["training.rounds=9", "server.strategy=fedadam"])
    run = config.run(organisations=3, catalogue=tmp_path / "c", out=tmp_path, resume=True)
    assert (run.training, run.privacy, run.model) == (config.training, config.privacy, config.model)
    assert (run.server.organisations, run.paths.resume) == (3, True)
    assert isinstance(config, SimulationConfig)


def test_a_list_of_texts_is_one_text_with_commas(tmp_path: Path) -> None:
    file, given = tmp_path / "run.toml", ["privacy.epsilon=8", "privacy.delta=1e-5"]
    file.write_text('[lab]\nqueries = "q.csv"\nquery_attributes = ["age", "country"]\n')
    assert read_settings(file, {}, given).lab.query_attributes == ("age", "country")
    lists = ['lab.query_attributes=["age"]', "lab.queries=q.csv"]
    assert read_settings(None, {}, [*given, *lists]).lab.query_attributes == ("age",)
    with pytest.raises(ConfigError, match=r"lab\.query_attributes = 'age'.*lab\.queries"):
        read_settings(None, {}, [*given, "lab.query_attributes=age"])
