"""Who may look at the console, and what a browser may do with a page of it.

A random token is made when the console starts, and printed in its address. Anyone who opens the
address gets a session in a cookie that no script reads and no other site's page can send.

| request                                              | answer                                    |
|------------------------------------------------------|-------------------------------------------|
| `Host` is no name of this machine or of the console  | 421: a page cannot reach it under a name  |
|                                                      |   of its own (DNS rebinding)              |
| GET `/?token=`, POST `/enter`: the token             | a session                                 |
| another token                                        | 401, with a form                          |
| no session                                           | 401, with a form; `/api/`: a sentence     |
| GET that another site's page makes                   | 403, but for a link that is followed      |
| POST from another origin, without the session's      | 403                                       |
|   action token, or not JSON                          |                                           |
| other methods                                        | 405                                       |

Every answer carries a policy by which a page loads only its own two files, sends only to the
console, and is framed by nobody. A session lives as long as the console's process. A cookie knows
no port: a server of somebody else on the same machine gets it if the same browser opens that one.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Collection
from urllib.parse import parse_qs

from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from client.console.templates import Templates
from shared.system.address import Address

__all__ = ["ACTION_HEADER", "MOST_SESSIONS", "Access", "Guard"]

ACTION_HEADER = "x-sotto-action"
"""Carries the session's action token, which a page of another origin cannot read."""
MOST_SESSIONS = 100
"""Sessions at once; of more, the oldest ends."""
_ASSETS = "/assets/"
_LONGEST_FORM = 4096
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Cache-Control": "no-store",
}


class Access:
    """The token, and the sessions of those who had it.

    Args:
        about: tells consoles of one machine apart, such as the site's folder.
        names: hosts that the console answers to beside those of this machine.
        secure: whether it is served over TLS.
    """

    def __init__(self, about: str, names: Collection[str] = (), *, secure: bool = False) -> None:
        self.token, self.secure = secrets.token_urlsafe(32), secure
        self._names = {name.casefold() for name in names}
        prefix = "__Host-" if secure else ""
        self.cookie = f"{prefix}sotto-console-{_digest(about)[:8]}"
        self._sessions: dict[str, str] = {}

    def knows_host(self, host: str) -> bool:
        """Return whether a `Host` header is a name of this machine or of the console."""
        address = Address.parse(host) or Address.parse(f"{host}:80")
        return address is not None and (address.loopback or address.host.casefold() in self._names)

    def accepts(self, token: str) -> bool:
        """Return whether a token is the console's."""
        return hmac.compare_digest(token.encode(), self.token.encode())

    def begin(self, response: Response) -> None:
        """Begin a session, and put it into a response."""
        session = secrets.token_urlsafe(32)
        self._sessions[_digest(session)] = secrets.token_urlsafe(32)
        while len(self._sessions) > MOST_SESSIONS:
            self._sessions.pop(next(iter(self._sessions)))
        response.set_cookie(
            self.cookie, session, httponly=True, samesite="strict", secure=self.secure, path="/"
        )

    def action(self, request: Request) -> str | None:
        """Return the action token of a request's session; None without one."""
        return self._sessions.get(_digest(request.cookies.get(self.cookie, "")))

    def refusal(self, request: Request, action: str) -> str | None:
        """Return why a request of a session is refused; None if it is not."""
        headers = request.headers
        site, navigates = headers.get("sec-fetch-site"), headers.get("sec-fetch-mode") == "navigate"
        if request.method != "POST":
            foreign = site not in (None, "same-origin", "none") and not navigates
            return "a page of another site asked for this." if foreign else None
        scheme = "https" if self.secure else "http"
        if headers.get("origin") != f"{scheme}://{headers.get('host')}":
            return "a page of another origin sent this."
        if site not in (None, "same-origin"):
            return "a page of another site sent this."
        if not hmac.compare_digest(headers.get(ACTION_HEADER, "").encode(), action.encode()):
            return "the action token is missing or of another session: load the page again."
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return "an action is sent as application/json."
        return None


class Guard:
    """Lets through what `Access` allows, and adds the headers of every answer.

    A request that passes has the session's action token in its state, as `action`.

    Args:
        app: what answers those who may look.
        access: who they are.
        templates: of the form that asks for the token.
    """

    def __init__(self, app: ASGIApp, access: Access, templates: Templates) -> None:
        self._app, self._access, self._templates = app, access, templates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        try:
            answer = await self._answer(Request(scope, receive))
        except ClientDisconnect:
            return
        await (answer or self._app)(scope, receive, send_with_headers)

    async def _answer(self, request: Request) -> Response | None:  # noqa: PLR0911 a table
        """Return the answer to a request that does not pass; None if it does."""
        access, path = self._access, request.url.path
        if not access.knows_host(request.headers.get("host", "")):
            return _sentence(421, "this console answers to its own names alone.")
        if request.method not in ("GET", "HEAD", "POST"):
            return _sentence(405, "GET and POST are all there is.")
        if path.startswith(_ASSETS) and request.method != "POST":
            return None
        if path == "/" and request.method == "GET" and "token" in request.query_params:
            return self._enter(request.query_params["token"])
        if path == "/enter" and request.method == "POST":
            return self._enter(await _token_of(request))
        action = access.action(request)
        if action is None:
            if path.startswith("/api/"):
                return _sentence(401, "the console was started again, or this is no session of it.")
            return self._form(wrong=False)
        if (refusal := access.refusal(request, action)) is not None:
            return _sentence(403, refusal)
        request.state.action = action
        return None

    def _enter(self, token: str) -> Response:
        if not self._access.accepts(token):
            return self._form(wrong=True)
        # A page, and no redirection: what follows comes from the console's own origin, so that the
        # browser sends the cookie however the address was opened.
        response = HTMLResponse(self._templates.render("entered.html"))
        self._access.begin(response)
        return response

    def _form(self, *, wrong: bool) -> Response:
        return HTMLResponse(self._templates.render("enter.html", wrong=wrong), 401)


async def _token_of(request: Request) -> str:
    """Return the token of a form; "" if there is none, or too much else."""
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > _LONGEST_FORM:
            return ""
    fields = parse_qs(content.decode("utf-8", "replace"))
    return fields.get("token", [""])[0].strip()


def _sentence(status: int, text: str) -> Response:
    return JSONResponse({"message": text}, status)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
