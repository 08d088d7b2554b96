"""Generate the Python code of `recommender.proto`: `python -m client.serving.service.generate`.

Needs grpcio-tools, which developers have. The generated files are checked in, so that a node does
not need it; `tests/client/serving/service/test_generate.py` compares them with the definition.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

__all__ = ["FILES", "PROTO", "generate"]

PROTO = Path(__file__).with_name("recommender.proto")
FILES = ("recommender_pb2.py", "recommender_pb2.pyi", "recommender_pb2_grpc.py")
_PLACE, _NAMED = "client.serving.service", "sotto/v1"


def generate(folder: Path) -> None:
    """Write the generated files into a folder.

    Raises:
        subprocess.CalledProcessError: the definition has an error, which is printed.
    """
    with tempfile.TemporaryDirectory() as temporary:
        outputs = [f"--{kind}_out={temporary}" for kind in ("python", "pyi", "grpc_python")]
        compiler = [sys.executable, "-m", "grpc_tools.protoc", f"-I{_NAMED}={PROTO.parent}"]
        subprocess.run([*compiler, *outputs, f"{_NAMED}/{PROTO.name}"], check=True)
        for name in FILES:
            text = Path(temporary, _NAMED, name).read_text(encoding="utf-8")
            # The compiler imports by the name of the definition, not by where the package lies.
            text = text.replace("\nfrom sotto.v1 import ", f"\nfrom {_PLACE} import ")
            (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    generate(PROTO.parent)
