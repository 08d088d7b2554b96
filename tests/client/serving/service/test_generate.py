"""The generated code is that of the definition."""

from __future__ import annotations

from pathlib import Path

from client.serving.service.generate import FILES, PROTO, generate


def test_the_generated_code_is_current(tmp_path: Path) -> None:
    generate(tmp_path)
    for name in FILES:
        current = PROTO.with_name(name).read_text(encoding="utf-8")
        assert current == (tmp_path / name).read_text(encoding="utf-8"), (
            f"{name}: run python -m client.serving.service.generate"
        )
