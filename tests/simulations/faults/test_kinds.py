"""Which kinds are deployed end to end, by `python -m simulations.faults.kinds`: all that rank."""

from __future__ import annotations

from shared.config import ModelConfig, ModelKind
from shared.models.registry import Examples, build_recommender, examples_of
from shared.sections import parse_sections
from simulations.faults.kinds import CASES, SIZE, catalogue_of


def test_every_kind_that_ranks_has_a_case_that_can_be_built() -> None:
    kinds = set[ModelKind]()
    for case in CASES.values():
        shape, catalogue = {"feature_size": SIZE, "max_length": 5} | case.model, catalogue_of(case)
        model = parse_sections(ModelConfig, shape)
        assert build_recommender(model, catalogue).config.items == len(catalogue)
        kinds.add(model.kind)
    assert kinds == {kind for kind in ModelKind if examples_of(kind) is Examples.HISTORIES}
