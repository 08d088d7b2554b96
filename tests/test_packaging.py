"""What pyproject.toml promises of the code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from shared.config import PrivacyConfig, RunConfig
from shared.sections import flat_tables

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
    find = PROJECT["tool"]["setuptools"]["packages"]["find"]
    tops = ("shared", "client", "server", "simulations")
    folders = {file.parent for top in tops for file in (ROOT / top).rglob("*.py")}
    assert all((folder / "__init__.py").is_file() for folder in folders)
    assert find["include"] == [f"{top}*" for top in (*tops, "sotto")]
    assert find["where"] == [".", "client/library"]
    typed = {"sotto": "client/library/sotto", "client": "client", "shared": "shared"}
    data = PROJECT["tool"]["setuptools"]["package-data"]
    for package, folder in typed.items():  # of `sotto`, and of what it hands out
        assert data[package] == ["py.typed"]
        assert (ROOT / folder / "py.typed").is_file()
    assert all((ROOT / file).is_file() for file in ("LICENSE", "README.md", "constraints.txt"))


def test_images_are_built_from_what_they_copy_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    first, *others = [line for line in lines if line and not line.startswith("#")]
    copied, data = set[str](), set[str]()
    for side in ("server", "client"):
        deploy = ROOT / side / "deploy"
        [default] = re.findall(r"\$\{SOTTO_DATA:-\./(.+)\}:", (deploy / "compose.yaml").read_text())
        data.add(f"{side}/deploy/{default}")
        text = (deploy / "Dockerfile").read_text()
        for words in (line.split() for line in text.splitlines() if line.startswith("COPY ")):
            copied |= set() if words[1].startswith("--from") else set(words[1:-1])
    assert first == "*"
    assert {line.removeprefix("!") for line in others if line.startswith("!")} == copied
    assert {line for line in others if not line.startswith("!")} == {"**/__pycache__", *data}
    assert {f"{folder}/" for folder in data} <= set((ROOT / ".gitignore").read_text().split())
