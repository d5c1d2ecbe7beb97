"""The lease of a run: at most one process works on the run, and a process that lost its lease publishes nothing more.

The file `lease.json` in the run's folder names the holder, which renews it while it works. `Lease.acquire` is the
protocol by which another process takes it over.

Each holder gets a fencing token, one higher than that of the holder before it. Resumable states are named by the token,
so a state that an earlier holder still writes after it lost the lease always counts as older.
"""

import contextlib
import json
import logging
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict, cast

from core.inputs.locations import Location
from core.records.artifacts import LEASE_NAME
from core.records.lease_holder import Holder, died_here, lives_here, this_process
from core.records.record_forms import parse_record
from core.runtime.errors import InputError, LeaseError
from core.storage.opening import open_store
from core.storage.store import ArtifactsSection, Store, Versioned

log = logging.getLogger(__name__)

# The store's times are whole seconds, so an age may be wrong by almost one second either way.
_CLOCK_SLACK = 1.5


class LeaseContent(TypedDict):
    """The file `lease.json`: the holder, and the seconds after which a lease that is not renewed may be taken over."""

    holder: Holder
    seconds: float
    nonce: str
    token: int
    renewal: int
    released: bool


@dataclass(frozen=True)
class StoredLease:
    """A lease as it was read: `version` changes with each renewal, `age` is the seconds since, by the store's clock."""

    content: LeaseContent
    version: str
    age: float

    @property
    def is_free(self) -> bool:
        """Whether it may be taken: it was given back, its holder died on this machine, or was silent for too long."""
        if self.content["released"] or died_here(self.content["holder"]):
            return True
        return self.age > self.content["seconds"] + _CLOCK_SLACK

    @property
    def holder_name(self) -> str:
        """The holder in words."""
        return f"process {self.content['holder']['pid']} on {self.content['holder']['host']}"


class Lease:
    """A lease that this process holds. `token` is greater than the tokens of all earlier holders."""

    def __init__(self, uri: str, artifacts: ArtifactsSection):
        self.uri, self.token = uri, 0
        self._seconds = artifacts.lease_seconds
        self._store = open_store(uri, artifacts)
        self._holder, self._nonce = this_process(), secrets.token_hex(8)
        self._version, self._valid_until, self._renewals = "", 0.0, 0
        self._lost: str | None = None
        self._renewing = threading.Lock()
        self._stop = threading.Event()

    def acquire(self, wait: bool) -> None:
        """Take the lease. LeaseError if another process works on the run and `wait` is false.

        - The lease is free: take it.
        - The holder is a running process of this machine: refuse, or wait for it.
        - The holder is elsewhere: watch the lease. If it is renewed, refuse or wait. If it is not renewed for
          `lease_seconds` by the store's clock, it becomes free.
        """
        first_version: str | None = None
        logged = False
        while True:
            current = read_lease(self._store)
            if current is None or current.is_free:
                if self._take(current):
                    break
                continue  # another process was faster: look who it is
            first_version = first_version or current.version
            is_alive = lives_here(current.content["holder"]) or current.version != first_version
            if is_alive and not wait:
                raise LeaseError(_in_use(self.uri, current))
            if is_alive and not logged:
                log.info("%s", _in_use(self.uri, current))
                logged = True
            time.sleep(min(1.0, self._seconds / 4))
        threading.Thread(target=self._keep_renewing, name="lease", daemon=True).start()

    def release(self) -> None:
        """Give the lease back, if this process still holds it."""
        self._stop.set()
        with self._renewing, contextlib.suppress(InputError):
            if self._lost is None:
                self._store.compare_and_swap(LEASE_NAME, self._content(released=True), self._version)

    def check(self) -> None:
        """LeaseError if another process has taken the run over. A lapsed lease that nobody took is renewed."""
        if not self._is_valid():
            self._renew()
        if self._lost is not None:
            raise LeaseError(self._lost)

    @contextlib.contextmanager
    def write_check(self) -> Iterator[None]:
        """The lease is held while the block runs; LeaseError if it was lost. Every change of the run is made in it."""
        while True:
            self.check()
            # Another process takes the lease over by `compare_and_swap`, which in a local store waits for this lock.
            with self._store.exclusive():
                if self._is_valid():
                    yield
                    return

    def _take(self, current: StoredLease | None) -> bool:
        """Write this process as the holder, in place of the free lease `current`; false if another was faster."""
        asked = _now()
        version = self._create() if current is None else self._replace(current)
        if version is None:
            return False
        self._version, self._valid_until = version, asked + self._valid_seconds
        return True

    def _create(self) -> str | None:
        self.token = 1
        created = self._store.create(LEASE_NAME, self._content())
        found = read_lease(self._store)
        return found.version if created and found is not None and found.content["nonce"] == self._nonce else None

    def _replace(self, current: StoredLease) -> str | None:
        self.token = current.content["token"] + 1
        return self._store.compare_and_swap(LEASE_NAME, self._content(), current.version)

    @property
    def _valid_seconds(self) -> float:
        # Less than `lease_seconds`, so that this process stops before another may take over.
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
            current = read_lease(self._store)
            holder = _in_use(self.uri, current) if current else f"the lease of {self.uri} is missing"
            self._lost = f"{holder}; this process was silent for too long and publishes nothing more"

    def _content(self, released: bool = False) -> bytes:
        content: LeaseContent = {
            "holder": self._holder,
            "seconds": self._seconds,
            "nonce": self._nonce,
            "token": self.token,
            "renewal": self._renewals,
            "released": released,
        }
        return json.dumps(content, indent=2, sort_keys=True).encode()


class ProcessLeases:
    """The leases that a process holds, by the address of the run.

    It is a registry, not an argument, because a lease belongs to the process: the file names the process, and a thread
    of it renews the lease. Flows give Prefect tasks only JSON values, such as addresses, and Prefect chooses the thread
    that runs a task. So a task looks up the lease of its run by address. In another process, such as a Dask worker,
    it finds none.
    """

    def __init__(self) -> None:
        self._by_run: dict[str, Lease] = {}

    @contextlib.contextmanager
    def hold(self, location: Location, artifacts: ArtifactsSection, wait: bool = False) -> Iterator[Lease]:
        """The lease of the run at `location`, taken at the start of the block and given back at its end."""
        uri = _absolute(location)
        if uri in self._by_run:
            yield self._by_run[uri]
            return
        lease = Lease(uri, artifacts)
        lease.acquire(wait)
        self._by_run[uri] = lease
        try:
            yield lease
        finally:
            del self._by_run[uri]
            lease.release()

    def find(self, location: Location) -> Lease | None:
        """The lease of the run that `location` belongs to; None if this process does not hold it."""
        uri = _absolute(location)
        return next((lease for run, lease in self._by_run.items() if uri == run or uri.startswith(f"{run}/")), None)


_LEASES = ProcessLeases()


def hold(
    location: Location, artifacts: ArtifactsSection, wait: bool = False
) -> contextlib.AbstractContextManager[Lease]:
    """The lease of the run at `location`, held until the end of the block. Blocks for the same run may be nested.

    If another process works on the run: LeaseError that names it, or with `wait` a wait until it has finished.
    """
    return _LEASES.hold(location, artifacts, wait)


def lease_of(location: Location) -> Lease | None:
    """The lease that this process holds on the run that `location` belongs to."""
    return _LEASES.find(location)


def publishing_store(location: Location, artifacts: ArtifactsSection) -> Store:
    """The store at `location`. If this process holds the run's lease, it changes nothing after losing it."""
    store = open_store(location, artifacts)
    lease = lease_of(location)
    return store.with_write_check(lease.write_check) if lease else store


def read_lease(store: Store) -> StoredLease | None:
    """The lease of the run in `store`; RecordError if the file has another form."""
    file = store.read(LEASE_NAME)
    return None if file is None else _parsed(file, store.uri)


def lease_state(store: Store) -> str:
    """Who holds the lease of the run in `store`, in words: 'nobody', or the holder and when it last renewed.

    RecordError if the file has another form.
    """
    lease = read_lease(store)
    if lease is None or lease.content["released"]:
        return "nobody"
    if lease.is_free:
        return f"nobody (lapsed: {lease.holder_name} is gone)"
    return f"{lease.holder_name}, renewed {lease.age:.0f} s ago"


def is_free(store: Store) -> bool:
    """Whether no process works on the run in `store`; RecordError if its lease has another form."""
    lease = read_lease(store)
    return lease is None or lease.is_free


def _parsed(file: Versioned, uri: str) -> StoredLease:
    content = cast(LeaseContent, parse_record(file.data, uri, LEASE_NAME))
    return StoredLease(content, file.version, file.age)


def _in_use(uri: str, lease: StoredLease) -> str:
    state = f"is being worked on by {lease.holder_name}, renewed {lease.age:.0f} s ago"
    return f"{uri} {state}: wait for it (--wait) or stop it"


def _absolute(location: Location) -> str:
    uri = str(location)
    return uri if "://" in uri else os.path.abspath(uri)


def _now() -> float:
    """Seconds on a clock that also runs while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
