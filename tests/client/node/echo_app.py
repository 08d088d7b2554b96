"""A whole app for tests with real processes: the server asks, the node tells about itself."""

from __future__ import annotations

from pathlib import Path

PROJECT = """
[project]
name = "echo"
version = "0.1.0"

[tool.flwr.app]
publisher = "sotto"
fab-include = ["client/**/*.py", "server/**/*.py"]

[tool.flwr.app.components]
serverapp = "server.app:app"
clientapp = "client.app:app"

[tool.flwr.app.config]
asks = "echo"
out = ""
"""
SERVER = """
import json, time
from pathlib import Path
from flwr.app import Message, RecordDict
from flwr.serverapp import ServerApp

app = ServerApp()

@app.main()
def main(grid, context):
    replies = []
    for ask in context.run_config["asks"].split(","):
        while not (nodes := list(grid.get_node_ids())):
            time.sleep(0.2)
        began = time.monotonic()
        message = Message(RecordDict(), dst_node_id=nodes[0], message_type=f"query.{ask}")
        for reply in grid.send_and_receive([message], timeout=50):
            said = reply.error.reason if reply.has_error() else dict(reply.content["echo"])
            replies.append({"ask": ask, "said": said, "seconds": time.monotonic() - began})
    Path(context.run_config["out"]).write_text(json.dumps(replies))
"""
CLIENT = """
import os, signal
from pathlib import Path
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.query("echo")
def echo(message, context):
    shown = Path("/proc/self/cmdline").read_text() + Path("/proc/self/environ").read_text()
    record = {"file": __file__, "user": os.geteuid(), "shown": shown, "pid": os.getpid()}
    return Message(RecordDict({"echo": ConfigRecord(record)}), reply_to=message)

@app.query("die")
def die(message, context):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def write_app(folder: Path, client: str = CLIENT) -> Path:
    """Writes the app's sources."""
    texts = {"pyproject.toml": PROJECT, "server/app.py": SERVER, "client/app.py": client}
    texts |= dict.fromkeys(("server/__init__.py", "client/__init__.py"), "")
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder
