"""What pyproject.toml promises of the code."""

from __future__ import annotations

import tomllib
from pathlib import Path

from shared.config import PrivacyConfig, RunConfig, flat_tables

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_flower_app_config_names_every_key_and_no_other() -> None:
    app = PROJECT["tool"]["flwr"]["app"]
    given = flat_tables(app["config"])
    run = RunConfig.from_flat(given)
    default = RunConfig(privacy=PrivacyConfig(epsilon=8.0, delta=1e-5))
    assert set(given) == set(default.to_flat())
    own = ("paths.", "server.organisations")
    assert {k: v for k, v in run.to_flat().items() if not k.startswith(own)} == {
        k: v for k, v in default.to_flat().items() if not k.startswith(own)
    }


def test_the_bundle_holds_code_of_both_sides_and_nothing_else() -> None:
    app = PROJECT["tool"]["flwr"]["app"]
    assert app["fab-include"] == ["server/**/*.py", "client/**/*.py", "shared/**/*.py"]
    assert app["components"] == {"serverapp": "server.app:app", "clientapp": "client.app:app"}


def test_every_package_is_installed() -> None:
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"][
        "packages"
    ]
    tops = ("shared", "client", "server", "simulations")
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for top in tops
        for file in (ROOT / top).rglob("__init__.py")
    }
    assert found == set(packages)
    assert all((ROOT / file).is_file() for file in ("LICENSE", "README.md", "constraints.txt"))
