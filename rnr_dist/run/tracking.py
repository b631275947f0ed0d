"""MLflow with one writer, the driver (docs/design.md).

In: runs, parameters, metrics, tags, files. Out: parent and nested MLflow runs. Invariant: an entry
is in the spool on disk before MLflow hears of it and leaves it only when MLflow has it; delivering
one twice changes nothing, so that none is lost and none counts twice, whichever threads log.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rnr_dist.config.secrets import without_secrets
from rnr_dist.errors import InputError
from rnr_dist.run.delivery import VIEW, Dataset, Delivery, artifacts_beside, flat, set_environment
from rnr_dist.run.directory import replacing, write_json
from rnr_dist.run.events import EventLog, events_of
from rnr_dist.run.progress import say
from rnr_dist.types import digest

RETRY_SECONDS = 60.0  # least pause after a failed contact
RETRY_FACTOR = 10.0  # and least pause in multiples of what it cost: at most a tenth of the run
SPOOL = "mlflow-spool.jsonl"  # in a run directory: what MLflow does not have yet
ENTRY = {"run", "kind", "content", "step", "at"}  # keys of an entry of the spool
REJECTED = 400  # MLflow's HTTP status for an entry that it will never take


def default_uri(runs: Path) -> str:
    """The sqlite database beside the runs; absolute, since workers change directory.

    Quoted: in an address `?` and `#` end a path, and `%` begins a character. Slashes too: MLflow
    3.17 makes the folder that the address names before it is unquoted, which so is the root.
    """
    return f"sqlite:////{quote(str(runs.absolute() / 'mlflow.db')[1:], safe='')}"


def ui_command(uri: str, host: str = "127.0.0.1", port: int = 5000) -> list[str]:
    """What `rnr ui` runs: MLflow's pages on a database, on loopback unless told otherwise.

    Raises InputError when `uri` is a tracking server, which has pages of its own.
    """
    if uri.startswith(("http:", "https:")):
        raise InputError(
            f"tracking.uri: found the server {without_secrets(uri)}; expected a database, or a "
            "browser"
        )
    set_environment()
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    artifacts = artifacts_beside(uri)
    if artifacts:
        command += ["--default-artifact-root", artifacts.as_uri(), "--no-serve-artifacts"]
    return command


def runs_page(uri: str, port: int = 5000) -> str:
    """Address of the table of runs of the latest experiment in a database.

    MLflow's own front page leads to an experiment's (empty) page of agents' traces.
    """
    set_environment()
    from mlflow import MlflowClient

    latest = ["last_update_time DESC"]
    [found] = MlflowClient(uri).search_experiments(max_results=1, order_by=latest)
    return f"http://127.0.0.1:{port}/#/experiments/{found.experiment_id}/runs{VIEW}"


class Tracker:
    """Parent and nested runs of one experiment.

    `spool` is the JSON-lines file, in the run directory, that holds what MLflow does not have yet.
    Runs are known by the spool's identity and their names: the same names again, after a resume,
    continue the same MLflow runs. What MLflow refuses for good (a changed parameter, a file that is
    gone) moves to `<spool>.rejected` with the reason.
    """

    def __init__(self, uri: str, experiment: str, spool: Path):
        self._delivery = Delivery(uri, experiment)
        self._spool = EventLog(spool.absolute())
        self._rejected = EventLog(spool.absolute().with_name(f"{spool.name}.rejected"))
        self._identity = _identity(spool.absolute().with_name(f"{spool.name}.id"))
        # By context: what a thread opens is its own, in the run that its starter's copy names, or
        # in the parent for a thread that was started without one.
        self._open: ContextVar[tuple[dict[str, Any], ...]] = ContextVar("open", default=())
        self._parents: list[dict[str, Any]] = []
        self._names: Counter[tuple[str, str]] = Counter()
        self._next_contact = 0.0
        self._lock = threading.Lock()  # of the spool
        self._delivering = threading.Lock()  # one delivers at a time
        self._woken = threading.Event()
        self._closed = False
        self._drain()
        self._thread = threading.Thread(target=self._work, daemon=True, name="MLflow")
        self._thread.start()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Tune copies callbacks, and what they hold, into files of its own: nothing goes there."""
        return object, ()

    @contextlib.contextmanager
    def parent(
        self, name: str, params: Mapping[str, Any], known_as: str | None = None
    ) -> Iterator[None]:
        """A run of its own, open for the block; nested `params` become dotted names.

        known_as: what a later Tracker here finds it by, also when its name has changed since.
        """
        try:
            with self._run(name, params, None, known_as):
                self._parents.append(self._innermost)
                try:
                    yield
                finally:
                    self._parents.pop()
        finally:
            self._drain()

    @contextlib.contextmanager
    def nested(self, name: str, params: Mapping[str, Any]) -> Iterator[None]:
        """A run under the innermost open one; what the block logs belongs to it."""
        with self._run(name, params, self._innermost):
            yield

    def metrics(self, values: Mapping[str, float], step: int = 0) -> None:
        """Figures of the innermost open run; names may hold letters, digits and `_-./ :`."""
        self._record("metrics", {key: float(value) for key, value in values.items()}, step)

    def headline(self, values: Mapping[str, float]) -> None:
        """What the whole run came to: figures of the parent, which lists of runs show."""
        figures = {key: float(value) for key, value in values.items()}
        self._record("metrics", figures, run=self._parents[-1])

    def tag(self, key: str, value: str) -> None:
        self._record("tags", {key: value})

    def tags(self, values: Mapping[str, str]) -> None:
        """Of the parent: what the whole run is, and where it comes from."""
        self._record("tags", dict(values), run=self._parents[-1])

    def artifact(self, path: Path) -> None:
        """A finished file, uploaded to the innermost open run."""
        self._record("artifact", str(path.absolute()))

    def exhibit(self, path: Path, table: bool = False) -> None:
        """A finished file that shows the whole run: of the parent.

        table: the file has the form of `mlflow.log_table` (orient `split`), and is shown as one.
        """
        kind = "table" if table else "artifact"
        self._record(kind, str(path.absolute()), run=self._parents[-1])

    def dataset(self, dataset: Dataset) -> None:
        """Something that the whole run reads."""
        self._record("dataset", asdict(dataset), run=self._parents[-1])

    def model(self, folder: Path, name: str, digest: str, told: Mapping[str, str]) -> None:
        """What the whole run made: a folder in MLflow's format, to be listed and registered.

        told: plain facts of it; `note` is its description, in Markdown.
        """
        known = {"folder": str(folder.absolute()), "name": name, "digest": digest}
        content = {**known, "told": dict(told)}
        self._record("model", content, run=self._parents[-1])

    def page(self) -> str:
        """The parent's address below MLflow's own; empty where MLflow has not been reached."""
        self._drain()
        return self._delivery.page_of(self._parents[-1])

    def close(self) -> None:
        """Deliver what still waits; what cannot be delivered stays for the next Tracker here.

        What is recorded afterwards reaches MLflow by another call of this alone.
        """
        self._closed = True
        self._woken.set()
        self._thread.join()  # at most one contact
        self._next_contact = 0.0
        self._drain()

    @property
    def _innermost(self) -> dict[str, Any]:
        return (self._open.get() or self._parents)[-1]

    @contextlib.contextmanager
    def _run(
        self,
        name: str,
        params: Mapping[str, Any],
        parent: dict[str, Any] | None,
        known_as: str | None = None,
    ) -> Iterator[None]:
        above, known = parent["key"] if parent else self._identity, known_as or name
        with self._lock:
            self._names[above, known] += 1
            key = digest([above, known, self._names[above, known]])
        run = {"key": key, "name": name, "started": _now(), "parent": parent}
        before = self._open.set((*self._open.get(), run))
        status = "KILLED"
        try:
            self._record("status", "RUNNING")
            self._record("params", dict(flat(params)))
            yield
            status = "FINISHED"
        except Exception:
            status = "FAILED"
            raise
        finally:
            self._record("status", status)
            self._open.reset(before)

    def _record(
        self, kind: str, content: Any, step: int = 0, run: dict[str, Any] | None = None
    ) -> None:
        # The time is set here, not on delivery: MLflow drops a metric it has at that time and step.
        entry = {"kind": kind, "content": content, "step": step, "at": _now()}
        with self._lock:
            self._spool.append({"run": run or self._innermost, **entry})
        self._woken.set()

    def _work(self) -> None:
        """Runs in a thread: the run itself waits for MLflow at its end alone."""
        while self._woken.wait() and not self._closed:
            self._woken.clear()
            self._drain()

    def _drain(self) -> None:
        """Deliver the spool in order; what is recorded meanwhile waits for the next time."""
        with self._delivering:
            self._deliver_all()

    def _deliver_all(self) -> None:
        """The one place where MLflow's errors are caught."""
        if time.monotonic() < self._next_contact:
            return
        with self._lock:
            waiting = self._waiting()
        if not waiting:
            return
        began, delivered = time.monotonic(), 0
        try:
            self._connect()
            for entry in waiting:
                self._deliver_or_reject(entry)
                delivered += 1
            self._next_contact = 0.0
        except Exception as error:  # any: a run never fails because of its tracker
            pause = max(RETRY_SECONDS, RETRY_FACTOR * (time.monotonic() - began))
            self._next_contact = time.monotonic() + pause
            self._delivery.disconnect()
            reason = without_secrets((str(error) or repr(error)).partition("\n")[0])[:200]
            say(f"MLflow cannot be reached; entries wait in {self._spool.path.name} ({reason})")
        if delivered:
            with self._lock:
                self._keep(self._waiting()[delivered:])

    def _waiting(self) -> list[dict[str, Any]]:
        """The spool's entries; a damaged one is told of, and kept among the rejected ones."""
        lines = self._spool.lines()
        entries = [entry for entry in events_of(lines) if entry.keys() >= ENTRY]
        if len(entries) < len(lines):
            lost = [line for line in lines if not (line.event and line.event.keys() >= ENTRY)]
            for line in lost:
                told = line.content.decode("utf-8", "backslashreplace").rstrip("\n")
                self._rejected.append({"line": told, "reason": "found no whole entry"})
            self._keep(entries)
            kept = self._rejected.path.name
            say(f"{self._spool.path}: {len(lost)} damaged lines are kept in {kept}")
        return entries

    def _keep(self, entries: Sequence[dict[str, Any]]) -> None:
        """The spool with these entries alone."""
        with replacing(self._spool.path) as aside:
            aside.touch()  # nothing may be left
            if entries:
                EventLog(aside).append(*entries)

    def _connect(self) -> None:
        self._delivery.connect()

    def _deliver_or_reject(self, entry: dict[str, Any]) -> None:
        from mlflow import MlflowException

        try:
            self._deliver(entry)
        except (MlflowException, FileNotFoundError) as error:
            if isinstance(error, MlflowException) and error.get_http_status_code() != REJECTED:
                raise
            self._rejected.append({**entry, "reason": without_secrets(str(error))})
            say(f"MLflow refused an entry; it is kept in {self._rejected.path.name}")

    def _deliver(self, entry: dict[str, Any]) -> None:
        self._delivery.deliver(entry)


def _identity(path: Path) -> str:
    """A random name for this run directory that stays when it is resumed."""
    known = path.read_text(encoding="utf-8", errors="replace").strip() if path.exists() else ""
    if not known:  # also where a crash, or a full disk, left the file without it
        write_json(path, uuid.uuid4().hex)
        known = path.read_text(encoding="utf-8").strip()
    return known


def _now() -> int:
    """Milliseconds since 1970, MLflow's unit."""
    return int(time.time() * 1000)
