"""What the packages import is what pyproject.toml states, and not what another library brings."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions

import pytest

from tests.test_layering import MODULES, PACKAGES, ROOT, imported_packages

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    "shared": ("server", "client"),
    "client": ("client", "ann", "onnx", "postgresql"),
    "server": ("server", "mlflow"),
    "simulations": ("lab", "server", "client", "dev", "bm25"),
}
"""What is installed where a package is used; of shared's, what both sides have."""


def names(requirements: list[str]) -> set[str]:
    """The distributions that requirements name, as PEP 503 writes them."""
    found = (re.match(r"[A-Za-z0-9._-]+", requirement) for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


def stated(package: str) -> set[str]:
    extras = [names(PROJECT["optional-dependencies"][extra]) for extra in EXTRAS[package]]
    both = set.intersection(*extras) if package == "shared" else set.union(*extras)
    return names(PROJECT["dependencies"]) | both


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_what_is_imported_is_stated(package: str) -> None:
    modules = [name for name in MODULES if name.partition(".")[0] == package]
    imported = set.union(*(imported_packages(name) for name in modules))
    foreign = imported - set(PACKAGES) - set(sys.stdlib_module_names)
    assert foreign, "there is something to look at"
    providers = packages_distributions()
    unstated = {
        module for module in foreign if not names(providers.get(module, [module])) & stated(package)
    }
    assert unstated == set()


def test_transformers_is_imported_by_encoders_and_for_those_who_load_models_by_it() -> None:
    """It takes seconds to import, which no process of a run is to wait for."""
    users = {name for name in MODULES if "transformers" in imported_packages(name)}
    assert users == {
        "shared.item_features.frozen_encoder",
        "shared.models.pretrained",
        "simulations.commands.items",
        "simulations.faults.kinds",  # makes an encoder
    }
    loaders = {name for name in MODULES if "shared.models.pretrained" in MODULES[name].read_text()}
    assert loaders == {"shared.models.pretrained"}
