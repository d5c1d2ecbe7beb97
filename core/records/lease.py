"""The lease of a run: at most one process works on it, and one that lost it publishes nothing more.

A small file beside the run says who holds it. It is renewed while the holder works; one that was silent for
`lease_seconds` by the store's own clock may be taken over. Each taking raises the fencing token.
"""

import contextlib
import json
import logging
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.records.artifacts import LEASE_NAME
from core.records.record_forms import parse_record
from core.runtime.errors import InputError, LeaseError
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection, Location, Store, Versioned

log = logging.getLogger(__name__)

# The store's times are whole seconds, so an age may be wrong by almost one either way.
_CLOCK_SLACK = 1.5
_held: dict[str, "Lease"] = {}


@contextlib.contextmanager
def hold(location: Location, artifacts: ArtifactsSection, wait: bool = False) -> Iterator["Lease"]:
    """The lease of the run at `location`, held until the end of the block; within it, it may be held again.

    Raises LeaseError naming the holder if another process works on the run, or waits for it with `wait`.
    """
    uri = _absolute(location)
    if uri in _held:
        yield _held[uri]
        return
    lease = Lease(uri, artifacts)
    lease.acquire(wait)
    _held[uri] = lease
    try:
        yield lease
    finally:
        del _held[uri]
        lease.release()


def lease_of(location: Location) -> "Lease | None":
    """The lease held by this process on the run that `location` belongs to."""
    uri = _absolute(location)
    return next((lease for run, lease in _held.items() if uri == run or uri.startswith(f"{run}/")), None)


class Lease:
    """A held lease; `token` is greater than that of every earlier holder."""

    def __init__(self, uri: str, artifacts: ArtifactsSection):
        self.uri, self.token = uri, 0
        self._seconds = artifacts.lease_seconds
        self._store = open_store(uri, artifacts)
        self._claim = {"holder": _this_process(), "seconds": self._seconds, "nonce": secrets.token_hex(8)}
        self._version, self._valid_until, self._renewals = "", 0.0, 0
        self._lost: str | None = None
        self._renewing = threading.Lock()
        self._stop = threading.Event()

    def acquire(self, wait: bool) -> None:
        """Take the lease; LeaseError if it is another's and `wait` is false."""
        watched: Versioned | None = None
        told = False
        while not self._take(self._store.read(LEASE_NAME)):
            there = self._store.read(LEASE_NAME)
            if there is None or self._is_free(there):
                continue
            renewed = watched is not None and there.version != watched.version
            if renewed or _lives_here(_parsed(there, self.uri)["holder"]):
                if not wait:
                    raise LeaseError(_held_by(self.uri, there))
                if not told:
                    log.info("%s", _held_by(self.uri, there))
                    told = True
            # A holder elsewhere is seen to live when it renews, or to be gone when it does not.
            watched = watched or there
            time.sleep(min(1.0, self._seconds / 4))
        threading.Thread(target=self._keep_renewing, name="lease", daemon=True).start()

    def release(self) -> None:
        """Give the lease back, if it is still held."""
        self._stop.set()
        with self._renewing, contextlib.suppress(InputError):
            if self._lost is None:
                self._store.compare_and_swap(LEASE_NAME, self._content(released=True), self._version)

    def check(self) -> None:
        """LeaseError if another process has taken the run over; a lapsed lease that nobody took is renewed."""
        if not self._is_valid():
            self._renew()
        if self._lost is not None:
            raise LeaseError(self._lost)

    @contextlib.contextmanager
    def guard(self) -> Iterator[None]:
        """What is done inside is done while the lease is held; LeaseError if it is not any more."""
        while True:
            self.check()
            # Taking the lease over is a swap, which this lock keeps out where the store has one.
            with self._store.exclusive():
                if self._is_valid():
                    yield
                    return

    def _take(self, there: Versioned | None) -> bool:
        asked = _now()
        if there is None:
            self.token = 1
            taken = self._store.create(LEASE_NAME, self._content())
            there = self._store.read(LEASE_NAME)
            if not taken or there is None or _parsed(there, self.uri)["nonce"] != self._claim["nonce"]:
                return False
            self._version = there.version
        elif self._is_free(there):
            self.token = _parsed(there, self.uri)["token"] + 1
            version = self._store.compare_and_swap(LEASE_NAME, self._content(), there.version)
            if version is None:
                return False
            self._version = version
        else:
            return False
        self._valid_until = asked + self._valid_seconds
        return True

    @property
    def _valid_seconds(self) -> float:
        return 0.8 * self._seconds

    def _is_valid(self) -> bool:
        return self._lost is None and _now() < self._valid_until

    def _keep_renewing(self) -> None:
        while not self._stop.wait(self._seconds / 4) and self._lost is None:
            try:
                self._renew()
            except InputError as error:
                log.warning("the lease of %s is not renewed: %s", self.uri, error)

    def _renew(self) -> None:
        with self._renewing:
            if self._lost is not None or self._stop.is_set():
                return
            asked = _now()
            self._renewals += 1
            version = self._store.compare_and_swap(LEASE_NAME, self._content(), self._version)
            if version is not None:
                self._version, self._valid_until = version, asked + self._valid_seconds
                return
            there = self._store.read(LEASE_NAME)
            holder = _held_by(self.uri, there) if there else f"the lease of {self.uri} is gone"
            self._lost = f"{holder}; this process was silent for too long and publishes nothing more"

    def _is_free(self, there: Versioned) -> bool:
        return _is_free(there, _parsed(there, self.uri))

    def _content(self, released: bool = False) -> bytes:
        content = self._claim | {"token": self.token, "renewal": self._renewals, "released": released}
        return json.dumps(content, indent=2, sort_keys=True).encode()


def publishing_store(location: Location, artifacts: ArtifactsSection | None = None) -> Store:
    """The store at `location`; where this process holds the run's lease, it changes nothing after losing it."""
    store = open_store(location, artifacts)
    lease = lease_of(location)
    return store.with_write_check(lease.guard) if lease else store


def lease_state(store: Store) -> str:
    """Who holds the lease of the run in `store`, in words, for a person: 'nobody', or the holder and when it was last
    heard of. RecordError if the lease is of another form.
    """
    there = store.read(LEASE_NAME)
    if there is None:
        return "nobody"
    lease = _parsed(there, store.uri)
    if lease["released"]:
        return "nobody"
    if _is_free(there, lease):
        return f"nobody (lapsed: {_name(lease)} is gone)"
    return f"{_name(lease)}, renewed {there.age:.0f} s ago"


def is_free(store: Store) -> bool:
    """Whether nobody works on the run in `store`; RecordError if its lease is of another form."""
    there = store.read(LEASE_NAME)
    return there is None or _is_free(there, _parsed(there, store.uri))


def _is_free(there: Versioned, lease: dict[str, Any]) -> bool:
    if lease["released"] or _died_here(lease["holder"]):
        return True
    return there.age > lease["seconds"] + _CLOCK_SLACK


def _held_by(uri: str, there: Versioned) -> str:
    lease = _parsed(there, uri)
    return f"{uri} is being worked on by {_name(lease)}, renewed {there.age:.0f} s ago: wait for it (--wait) or stop it"


def _parsed(there: Versioned, uri: str) -> dict[str, Any]:
    return parse_record(there.data, uri, LEASE_NAME)


def _name(lease: dict[str, Any]) -> str:
    return f"process {lease['holder']['pid']} on {lease['holder']['host']}"


def _this_process() -> dict[str, Any]:
    here = {"host": platform.node(), "pid": os.getpid()}
    return here | _identity(os.getpid())


def _identity(pid: int) -> dict[str, Any]:
    """What tells the process from others of the same number; nothing on systems without /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return {}
    started = "dead" if state in "ZX" else fields[18]
    return {"boot": boot, "namespace": namespace, "started": started}


def _is_here(holder: dict[str, Any]) -> bool:
    here = _identity(os.getpid())
    return bool(here) and all(holder.get(key) == here[key] for key in ("boot", "namespace"))


def _died_here(holder: dict[str, Any]) -> bool:
    """Whether the holder was a process of this machine that is gone: then nobody need wait for its lease to lapse."""
    return _is_here(holder) and _identity(holder["pid"]).get("started") != holder.get("started")


def _lives_here(holder: dict[str, Any]) -> bool:
    return _is_here(holder) and not _died_here(holder)


def _absolute(location: Location) -> str:
    uri = str(location)
    return uri if "://" in uri else os.path.abspath(uri)


def _now() -> float:
    """Seconds on a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
