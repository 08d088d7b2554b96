"""The model, catalogue and histories in use, and their replacement while requests are answered.

| what changes on disk                         | what happens                                      |
|----------------------------------------------|---------------------------------------------------|
| model, catalogue or home model               | once no file has changed between two looks, all   |
|                                              |   of it is loaded beside the old; requests that   |
|                                              |   are being answered end with the old; an index   |
|                                              |   of a large catalogue is built before it is used |
| it is half written, of another catalogue,    | the old stays in use until the files change again |
|   or not sound                               |   a metric and the log say so                     |
| files of the source                          | the histories are read again                      |
| rows of a database                           | read again every `serve.data_seconds`             |
| tables and model of [wellbeing]              | with the histories; and all of it again every     |
|                                              |   `serve.data_seconds`, for the scores' sake      |
| SIGHUP                                       | all of it is looked at and read again at once     |
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from client.data.feedback import FeedbackStore
from client.data.sources import open_source
from client.home.store import HOME_FILE
from client.logs import Event, Fields, cause, note
from client.serving.histories import UserHistories
from client.serving.published import home_in_use
from client.serving.recommender import Recommender
from client.serving.service.metrics import ServiceMetrics
from client.site.site import Site
from client.wellbeing.protection import Protection
from shared.errors import ConfigError, DataError, SottoError
from shared.rerank.settings import RerankConfig

__all__ = ["Current", "Loaded"]

_LONGEST_NAME = 16


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a request is answered with, from its begin to its end.

    Attributes:
        recommender: the model and its catalogue.
        histories: the users' own, with ids of the same catalogue.
        model: names the model; changes with its weights, the home model and the catalogue.
        rerank: how lists are chosen from scores.
        protection: decides on lists of users at risk of over-use; None where nobody is protected.
    """

    recommender: Recommender
    histories: UserHistories
    model: str
    rerank: RerankConfig = field(default_factory=RerankConfig)
    protection: Protection | None = None


class Current:
    """What is in use now.

    Args:
        site: whose model and data they are.
        folder: that the coordinator published.
        store: of feedback; None where none is kept.
        metrics: where replacements are counted.

    Raises:
        SottoError: the model or the data cannot be loaded.
    """

    def __init__(
        self, site: Site, folder: Path, store: FeedbackStore | None, metrics: ServiceMetrics
    ) -> None:
        self._site, self._folder, self._store, self._metrics = site, folder, store, metrics
        self._scratch = None if store is None else store.folder
        self._wake, self._ended = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self._files, self._data = self._stamp(), self._data_version()
        self._seen: tuple[Hashable, Hashable] = (self._files, self._data)
        self._read_at = time.monotonic()
        recommender, model = self._load_model()
        self._use(self._load(recommender, model))

    @property
    def loaded(self) -> Loaded:
        """What to answer a request with: take it once a request."""
        return self._loaded

    def catch_up(self) -> None:
        """Take in feedback that was stored since the last time."""
        if self._store is not None:
            self._loaded.histories.catch_up(self._store)

    def look(self, *, again: bool = False) -> bool:
        """Load what has changed, if no file has changed since the last look.

        Args:
            again: load all of it, whether it has changed or not.

        Returns:
            Whether something was replaced.
        """
        now = self._stamp(), self._data_version()
        settled, self._seen = now == self._seen, now
        files, data = now
        ages = self._data is None or self._site.wellbeing.on
        stale = ages and time.monotonic() - self._read_at > self._site.serve.data_seconds
        if again or (settled and files != self._files):
            self._files, self._data = now
            return self._replace("model")
        if (settled and data != self._data) or stale:
            self._data = data
            return self._replace("histories")
        return False

    def watch(self) -> None:
        """Look every `serve.reload_seconds`, in a thread of its own, until `close`."""
        thread = threading.Thread(target=self._watch, name="reload", daemon=True)
        thread.start()
        self._thread = thread

    def wake(self) -> None:
        """Load all of it again, soon."""
        self._wake.set()

    def close(self) -> None:
        """End watching."""
        self._ended.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            again = self._wake.wait(self._site.serve.reload_seconds)
            self._wake.clear()
            if self._ended.is_set():
                return
            try:
                self.look(again=again)
                self.catch_up()
            except (SottoError, OSError) as error:  # looked at again next time
                note(Event.NOT_RELOADED, **cause(error) | Fields(kind="look"))

    def _replace(self, what: str) -> bool:
        self._read_at = time.monotonic()
        try:
            old = self._loaded
            recommender, model = (
                self._load_model() if what == "model" else (old.recommender, old.model)
            )
            loaded = self._load(recommender, model)
        except (SottoError, OSError, MemoryError) as error:
            self._metrics.reloads.labels(what, "failed").inc()
            note(Event.NOT_RELOADED, **cause(error) | Fields(kind=what))
            return False
        self._use(loaded)
        self.catch_up()  # what was stored between reading and now
        self._metrics.reloads.labels(what, "done").inc()
        note(Event.RELOADED, kind=what)
        return True

    def _load(self, recommender: Recommender, model: str) -> Loaded:
        """Read the users' data for a model."""
        catalogue = recommender.catalogue
        histories = UserHistories.load(self._site, catalogue, self._store)
        protection = Protection.load(self._site, catalogue)
        return Loaded(recommender, histories, model, self._site.rerank, protection)

    def _use(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._metrics.model.clear()
        self._metrics.model.labels(loaded.model).set(1)
        self._metrics.loaded.set_to_current_time()

    @property
    def _home(self) -> Path | None:
        """The home model's file; None where there is none."""
        return home_in_use(self._site)

    def _load_model(self) -> tuple[Recommender, str]:
        """Load a private copy of all files, and return the recommender and its name.

        Weights are mapped into memory, and a file that is cut short while it is mapped would end
        the process. The copy has no name any more when this returns.
        """
        with tempfile.TemporaryDirectory(prefix=".serving-", dir=self._scratch) as temporary:
            copy, digest = Path(temporary), hashlib.sha256()
            home, places = None, dict[str, Path]()
            for file in self._files_of_model():
                place = (
                    copy / HOME_FILE if file == self._home else copy / file.parent.name / file.name
                )
                place.parent.mkdir(exist_ok=True)
                shutil.copyfile(file, place)
                digest.update(hashlib.sha256(place.read_bytes()).digest())
                home = place if file == self._home else home
                places[str(place)] = file
            try:
                return self._loaded_from(copy, home), digest.hexdigest()[:_LONGEST_NAME]
            except DataError as error:
                own = error.file.replace(str(copy), str(self._folder))
                own = str(places.get(error.file, own))
                raise DataError(error.problem, file=own, remedy=error.remedy) from error

    def _loaded_from(self, folder: Path, home: Path | None) -> Recommender:
        """Load a folder, and build an index of a large catalogue before it is used."""
        site = self._site
        recommender = Recommender.load(
            folder, home, private=site.home.private, domains=site.data.domains
        )
        above = site.serve.index_above
        if 0 < above < len(recommender.catalogue):
            try:
                indexed = recommender.build_index()
            except ConfigError:  # the log says what to install
                indexed = False
            note(Event.INDEXED if indexed else Event.NOT_INDEXED)
        recommender.reranker(self._site.rerank)  # refuses settings that do not fit, before use
        return recommender

    def _files_of_model(self) -> Iterator[Path]:
        for name in ("model", "catalogue"):
            yield from sorted(file for file in (self._folder / name).glob("*") if file.is_file())
        if self._home is not None:
            yield self._home

    def _stamp(self) -> Hashable:
        """Return a value that changes with the files of model, catalogue and home model."""
        stamp = []
        for file in self._files_of_model():
            try:
                status = file.stat()
            except OSError:  # it is being replaced
                continue
            stamp.append((str(file), status.st_mtime_ns, status.st_size, status.st_ino))
        return tuple(stamp)

    def _data_version(self) -> Hashable | None:
        """Return a value that changes with the source; None where only reading it can tell."""
        try:
            version = open_source(self._site.data, Path(self._site.folder)).version()
        except SottoError:  # the files are being replaced; `load` says what is wrong
            return ()
        return version if version is None else (version, *self._wellbeing_files())

    def _wellbeing_files(self) -> Iterator[Hashable]:
        """Yield what tells one version of a file of [wellbeing] from another."""
        policy, folder = self._site.wellbeing, Path(self._site.folder)
        for name in (policy.users, policy.items, policy.model) if policy.on else ():
            place = folder / name
            files = sorted(place.rglob("*")) if name and place.is_dir() else [place]
            for file in files:
                if file.is_file():
                    status = file.stat()
                    yield str(file), status.st_mtime_ns, status.st_size
