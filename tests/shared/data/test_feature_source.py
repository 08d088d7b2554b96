from dataclasses import replace

import pytest

from shared.data.feature_source import FeatureSource

SOURCE = FeatureSource(
    encoder="tiny",
    digest="ab" * 32,
    pooling="mean",
    words=False,
    size=2,
    template=1,
    transformers="5.0",
)


def test_a_record_reads_back_from_its_text() -> None:
    assert FeatureSource.from_text(SOURCE.to_text()) == SOURCE


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"template": 0},
        {"encoder": ""},
        {"encoder": "", "digest": "", "pooling": ""},
    ],
)
def test_a_record_out_of_range_or_incomplete_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|features come from"):
        replace(SOURCE, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "nonsense",
        "[]",
        "null",
        "{}",
        SOURCE.to_text().replace('"size": 2', '"size": "2"'),
        SOURCE.to_text().replace('"words"', '"letters"'),
    ],
)
def test_a_text_with_other_fields_or_types_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"exactly the fields|Expecting value"):
        FeatureSource.from_text(text)
