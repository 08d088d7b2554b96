"""The console's pages and actions.

| request                                   | answer                                             |
|-------------------------------------------|----------------------------------------------------|
| GET `/`, `/left`, `/left/NUMBER`,         | a page                                             |
|   `/budget`, `/try`, `/quality`, `/health`|                                                    |
| GET `/assets/NAME`                        | one of the pages' own files                        |
| POST `/api/users`, `/api/titles`          | part of a page: what a text finds                  |
| POST `/api/any-user`                      | {"user": ...}                                      |
| POST `/api/recommend`                     | part of a page: recommendations with reasons       |
| POST `/api/quality`, `/api/check`         | starts or stops the work: {"do": "start"}          |
| GET `/api/quality`, `/api/check`,         | {"running", "step", "share", "problem"}            |
|   `/api/model`                            |                                                    |
| GET `/part/quality`, `/part/check`        | part of a page: the result                         |

What is wrong with a request is said as {"message": ...} with status 400. Nothing is written.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from client.console import trial
from client.console.access import Access, Guard
from client.console.account_pictures import draw_curve, draw_gauge, draw_steps
from client.console.accounts import Accounts, Books, SentRelease
from client.console.checking import check_job
from client.console.desk import Desk, Table
from client.console.drawings import difference_bar, heat, parts_bar
from client.console.evaluating import FIGURES, draw_figures, evaluation_job
from client.console.health import Level, examine, read_serving, versions
from client.console.jobs import FAULT, Job
from client.console.templates import ASSETS, Templates, asset
from client.ledger.outbox import BODIES_KEPT, figures_of
from client.logs import Event, Fields, cause, note
from client.serving.service.admission import Admission
from client.serving.service.status import ServiceError
from client.site.site import Site
from shared.errors import LedgerError, RequestError, SottoError

__all__ = ["ANSWERS_SHOWN", "PartnerConsole"]

ANSWERS_SHOWN = 100
"""Answers on a page of what left."""
_LARGEST, _SECONDS = 256 * 1024, 120.0
_WORKERS, _WAITING = 2, 32
VIEWS = (
    ("/", "Overview"),
    ("/left", "What left"),
    ("/budget", "What is left"),
    ("/try", "Try it"),
    ("/quality", "How good"),
    ("/health", "Health"),
)
Handler = Callable[[Request], Response]


@dataclass(frozen=True, slots=True)
class _Answers:
    """One page of what left: answers of runs, the latest first.

    Attributes:
        runs: name, cost and answers of each.
        before: number before which older ones are; None where there are none.
    """

    runs: list[tuple[str, object, list[SentRelease]]]
    before: int | None


class PartnerConsole:
    """All of it but the listening.

    Args:
        site: whose node it is.
        model: the published folder; None for none.
        before: an earlier one, to compare with.
        access: who may look.
    """

    def __init__(self, site: Site, model: Path | None, before: Path | None, access: Access) -> None:
        self.site, self.access, self.model, self.before = site, access, model, before
        self.desk, self.accounts = Desk(site, model), Accounts(site)
        self.quality, self.check = evaluation_job(site, model, before), check_job(site)
        self.templates = Templates(site.organisation)
        self._admission = Admission(_WORKERS, _WAITING)
        jobs: dict[str, Job[Any]] = {"quality": self.quality, "check": self.check}
        routes = [
            *(Route(f"/assets/{name}", self._asset(name)) for name in ASSETS),
            Route("/", self._page(self._overview)),
            Route("/left", self._page(self._left)),
            Route("/left/{number:int}", self._page(self._answer)),
            Route("/budget", self._page(self._budget)),
            Route("/try", self._page(self._try)),
            Route("/quality", self._page(self._quality)),
            Route("/health", self._page(self._health)),
            Route("/part/quality", self._page(self._measured)),
            Route("/part/check", self._page(self._findings)),
            Route("/api/users", self._action(self._users), methods=["POST"]),
            Route("/api/any-user", self._action(self._any_user), methods=["POST"]),
            Route("/api/titles", self._action(self._titles), methods=["POST"]),
            Route("/api/recommend", self._action(self._recommend), methods=["POST"]),
            Route("/api/model", self._page(lambda _: _progress(self.desk))),
        ]
        for name, job in jobs.items():
            routes += [
                Route(f"/api/{name}", self._action(_command(job)), methods=["POST"]),
                Route(f"/api/{name}", self._page(_watch(job)), methods=["GET"]),
            ]
        app = Starlette(routes=routes, exception_handlers={HTTPException: self._no_route})
        self.app: ASGIApp = Guard(app, access, self.templates)

    def close(self) -> None:
        """End what runs in the background."""
        self.quality.stop()
        self.check.stop()
        self._admission.close()
        self.desk.close()

    # --- how requests are answered -------------------------------------------------------------

    def _page(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await self._guarded(lambda: handler(request), request)

        return answer

    def _action(
        self, handler: Callable[[Mapping[str, Any]], Response]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                fields = await _read(request)
            except RequestError as error:
                return JSONResponse({"message": str(error)}, 400)
            except ClientDisconnect:
                return Response(status_code=499)
            return await self._guarded(lambda: handler(fields), request)

        return answer

    async def _guarded(self, handler: Callable[[], Response], request: Request) -> Response:
        """Answer in a thread; what goes wrong is a sentence."""
        try:
            return await self._admission.run(handler, _SECONDS)
        except ServiceError as error:
            message, status = error.sentence, error.code.value
        except SottoError as error:
            message, status = str(error), 400
        except Exception as error:
            note(Event.FAILED, **cause(error) | Fields(kind="console"))
            message, status = FAULT, 500
        return self._problem(request, message, status)

    def _problem(self, request: Request, message: str, status: int) -> Response:
        if request.url.path.startswith(("/api/", "/part/")):
            return JSONResponse({"message": message}, status)
        page = self._render(request, "problem.html", "Not shown", message=message)
        return HTMLResponse(page, status)

    async def _no_route(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return self._problem(request, "there is no such page.", status)

    def _render(self, request: Request, name: str, title: str, **context: Any) -> str:  # noqa: ANN401
        return self.templates.render(
            name,
            title=title,
            views=VIEWS,
            path="/" + request.url.path.split("/")[1],
            action=request.state.action,
            **context,
        )

    def _shown(self, request: Request, name: str, title: str, **context: Any) -> Response:  # noqa: ANN401
        return HTMLResponse(self._render(request, name, title, **context))

    def _part(self, name: str, **context: Any) -> Response:  # noqa: ANN401
        return HTMLResponse(self.templates.render(name, **context))

    def _asset(self, name: str) -> Callable[[Request], Awaitable[Response]]:
        content = asset(name)

        async def answer(_: Request) -> Response:
            return Response(content, media_type=ASSETS[name])

        return answer

    # --- pages -----------------------------------------------------------------------------------

    def _books(self) -> Books | LedgerError:
        try:
            return self.accounts.read()
        except LedgerError as error:
            return error

    def _overview(self, request: Request) -> Response:
        books = self._books()
        readable = isinstance(books, Books)
        facts = examine(self.site, books, self.desk, read_serving(self.site))
        worst = next(
            (level for level in (Level.WRONG, Level.LOOK) if any(f.level is level for f in facts)),
            Level.FINE,
        )
        return self._shown(
            request,
            "overview.html",
            "Overview",
            books=books if readable else None,
            problem="" if readable else str(books),
            gauge=draw_gauge(books) if isinstance(books, Books) else "",
            facts=facts,
            worst=worst,
            table=self.desk.table,
            loading=self.desk.progress.running,
            measured=self.quality.progress.result,
        )

    def _left(self, request: Request) -> Response:
        books = self.accounts.read()
        return self._shown(
            request,
            "left.html",
            "What left my building",
            books=books,
            answers=_answers_before(books, _number(request.query_params.get("before"))),
            pictures=draw_steps(books),
        )

    def _answer(self, request: Request) -> Response:
        number = int(request.path_params["number"])
        found = {one.answer.number: one for one in self.accounts.read().sent}
        if number not in found:
            return self._problem(request, f"no answer has the number {number}.", 404)
        body = self.accounts.body(number)
        return self._shown(
            request,
            "answer.html",
            f"Answer {number}",
            sent=found[number],
            figures=None if body is None else figures_of(body),
            kept=BODIES_KEPT,
        )

    def _budget(self, request: Request) -> Response:
        books = self.accounts.read()
        return self._shown(
            request,
            "budget.html",
            "What is left",
            books=books,
            gauge=draw_gauge(books),
            pictures=draw_curve(books),
            policy=self.site.policy,
            population=self.site.population,
        )

    def _try(self, request: Request) -> Response:
        table = self.desk.table
        catalogue = None if table is None else table.loaded.recommender.catalogue
        genres = set() if catalogue is None else {g for own in set(catalogue.genres) for g in own}
        return self._shown(
            request,
            "try.html",
            "Try it",
            table=table,
            labels=[] if table is None else [blend.label for blend in table.blends],
            categories=sorted(genres),
            progress=self.desk.progress,
            model=self.model,
            most=trial.MOST_ITEMS,
        )

    def _quality(self, request: Request) -> Response:
        return self._shown(
            request,
            "quality.html",
            "How good",
            progress=self.quality.progress,
            model=self.model,
            before=self.before,
            **self._figures(),
        )

    def _health(self, request: Request) -> Response:
        serving = read_serving(self.site)
        return self._shown(
            request,
            "health.html",
            "Health",
            facts=examine(self.site, self._books(), self.desk, serving),
            serving=None if isinstance(serving, str) else serving,
            versions=versions(),
            progress=self.check.progress,
            findings=self.check.progress.result,
            site=self.site,
        )

    # --- parts of pages and actions ---------------------------------------------------------------

    def _figures(self) -> dict[str, Any]:
        measured = self.quality.progress.result
        if measured is None:
            return {"measured": None}
        from client.home.adapt import FEWEST  # noqa: PLC0415 with torch
        from client.home.evaluate import NAMES  # noqa: PLC0415

        return {
            "measured": measured,
            "names": NAMES,
            "pictures": draw_figures(measured),
            "about": FIGURES,
            "fewest": FEWEST,
        }

    def _measured(self, _: Request) -> Response:
        return self._part("measured.html", **self._figures())

    def _findings(self, _: Request) -> Response:
        return self._part("findings.html", findings=self.check.progress.result)

    def _table(self) -> Table:
        table = self.desk.table
        if table is None:
            raise RequestError(self.desk.progress.problem or "the model is being loaded.")
        return table

    def _users(self, fields: Mapping[str, Any]) -> Response:
        text = trial.text_of(fields, "text")
        users = self._table().loaded.histories.search(text, 12)
        return self._part("users.html", users=users, text=text)

    def _any_user(self, _: Mapping[str, Any]) -> Response:
        user = self._table().loaded.histories.any_user()
        if user is None:
            raise RequestError("your data has no user with an item of the catalogue.")
        return JSONResponse({"user": user})

    def _titles(self, fields: Mapping[str, Any]) -> Response:
        text = trial.text_of(fields, "text")
        return self._part("titles.html", titles=trial.find_titles(self._table(), text), text=text)

    def _recommend(self, fields: Mapping[str, Any]) -> Response:
        table = self._table()
        tried = trial.try_it(table, trial.Question.read(fields, table))
        return self._part(
            "recommended.html",
            tried=tried,
            strip=heat([event.attention for event in tried.history]),
            heat=heat,
            parts_bar=parts_bar,
            difference_bar=difference_bar,
        )


def _command(job: Job[Any]) -> Callable[[Mapping[str, Any]], Response]:
    def command(fields: Mapping[str, Any]) -> Response:
        if fields.get("do") == "start":
            job.start()
        elif fields.get("do") == "stop":
            job.stop()
        else:
            raise RequestError("`do` is start or stop.")
        return _progress(job)

    return command


def _watch(job: Job[Any]) -> Handler:
    return lambda _: _progress(job)


def _progress(of: Job[Any] | Desk) -> Response:
    progress = of.progress
    return JSONResponse(
        {
            "running": progress.running,
            "step": progress.step,
            "share": progress.share,
            "problem": progress.problem,
            "done": progress.result is not None,
        }
    )


async def _read(request: Request) -> Mapping[str, Any]:
    """Return the JSON object that a page sends.

    Raises:
        RequestError: it is none, or too long.
    """
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > _LARGEST:
            raise RequestError(f"an action has at most {_LARGEST:,} bytes.")
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise RequestError("an action is a JSON object.")
    return fields


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _answers_before(books: Books, before: int | None) -> _Answers:
    sent = [one for one in books.sent if before is None or one.answer.number < before]
    page, costs = sent[:ANSWERS_SHOWN], {run.run: run.cost for run in books.runs}
    runs: dict[str, list[SentRelease]] = {}
    for one in page:
        runs.setdefault(one.answer.run, []).append(one)
    older = page[-1].answer.number if len(sent) > len(page) else None
    return _Answers([(run, costs[run], own) for run, own in runs.items()], older)
