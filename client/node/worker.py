"""Answer one request: verify the app bundle that came with it, then run the vetted copy.

The bundle that the coordinator sent is compared with the fingerprint that the partner trusts, and
discarded. What runs is the partner's own copy, verified file by file (`client.bundle.trust`). The
installed package does this before it executes any code of a bundle.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from operator import attrgetter
from pathlib import Path

from flwr.app import Context, Message

from client.bundle.trust import TrustedApp, verify_trusted
from client.flower_internals import Fab
from client.logs import Event, Fields, about, cause, note, request, set_up
from client.node.task import answer
from client.site.site import Site
from shared.errors import BundleError, Refused
from shared.messages import refusal_reply
from shared.outcomes import Refusal
from shared.sections import LONGEST_NAME

__all__ = ["reply_to", "work"]

App = Callable[[Message, Context], Message]


def work(site: str, runtime: str, token: str, notify: Connection) -> None:
    """Answer the task with this token; the process ends afterwards.

    Args:
        site: folder of the site.
        runtime: address of the SuperNode, host:port.
        token: of the task.
        notify: is sent the request without its content, as soon as it is fetched.
    """
    set_up()
    answer(runtime, token, notify.send_bytes, partial(reply_to, Path(site)))


def reply_to(site: Path, message: Message, context: Context, fab: Fab) -> Message:
    """Return the vetted app's reply, or a refusal. Raises nothing.

    Args:
        site: folder of the site.
        message: the request.
        context: of the node.
        fab: what the coordinator sent as an app; neither executed nor unpacked.
    """
    with request(kind=message.metadata.message_type[:LONGEST_NAME]):
        try:
            app = _load(_verify_bundle(message, fab, site))
            return app(message, context)
        except Refused as refused:
            note(Event.DECLINED, **cause(refused) | Fields(code=str(refused.code)))
            return refusal_reply(refused.code, message)
        except Exception as error:  # another app's words could hold data, as its refusals could
            note(Event.FAILED, **cause(error))
            return refusal_reply(Refusal.FAILED, message)


def _verify_bundle(message: Message, fab: Fab, folder: Path) -> TrustedApp:
    """Return the app to run.

    Raises:
        Refused: the request came with another bundle, or none is trusted. It is recorded.
    """
    site = Site.load(folder)
    about(organisation=site.organisation)
    sent = hashlib.sha256(fab.content).hexdigest()
    try:
        return verify_trusted(site, sent)
    except BundleError as error:
        kind = message.metadata.message_type[:LONGEST_NAME]
        site.open_ledger().refuse(Refusal.BUNDLE, {"kind": kind, "bundle": sent})
        raise Refused(Refusal.BUNDLE, str(error)) from error


def _load(trusted: TrustedApp) -> App:
    """Load the bundle's own ClientApp, even if packages of the same names were loaded before."""
    packages = trusted.bundle.packages
    for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
        del sys.modules[name]
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(trusted.folder))
    importlib.invalidate_caches()
    module, _, attribute = trusted.bundle.clientapp.partition(":")
    app: App = attrgetter(attribute)(importlib.import_module(module))
    return app
