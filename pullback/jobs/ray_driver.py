"""Shards handed to workers of Ray, and taken back from those that are lost."""

import io
import logging
import os
import signal
import threading
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from ..archive.signals import postpone_signals
from .actor import Assignment, Worker
from .workers import Team

log = logging.getLogger("pullback")

# Shards that a worker is told of at a time: the next begins while the driver hears of the last.
_AHEAD = 2
_MOST_LOSSES = 3
_PATIENCE = 60.0


def pack(**values: Any) -> dict[str, bytes]:
    """Encoder and images as they are sent to workers.

    Raises:
        ImportError: Ray is not installed.
        TypeError: one of them cannot be sent.
    """
    _import_ray()
    from ray import cloudpickle

    packed = {}
    for name, value in values.items():
        try:
            packed[name] = cloudpickle.dumps(value)
        except Exception as error:  # anyone's code decides how it is pickled
            raise TypeError(f"the {name} cannot be sent to workers: {error}") from error
    return packed


def score_with_ray(
    team: Team, assignment: Assignment, shards: dict[int, int], report: Callable[[int], object]
) -> None:
    """Have workers score shards.

    Args:
        team: how many workers, and what each takes.
        assignment: what they are told.
        shards: images of each, by number.
        report: is told after every shard how many images are done.

    Raises:
        RuntimeError: the same shard has ended several workers, or Ray itself has ended.
        ValueError: a worker cannot begin; and whatever scoring raises.
    """
    with _connected(team) as ray:
        hired = ray.remote(num_cpus=team.threads, num_gpus=team.gpus, scheduling_strategy="SPREAD")(
            Worker
        )
        driver = _Driver(ray, hired.remote, ray.put(assignment), shards, report)
        try:
            driver.run(team)
        finally:
            with postpone_signals():
                driver.end()


class _Driver:
    """Hands out shards; those of a worker that is lost go to others.

    Args:
        ray: the module.
        hire: asks Ray for a worker, which it may start later, or never.
        assignment: reference to what each is told first.
        shards, report: see :func:`score_with_ray`.
    """

    def __init__(
        self,
        ray: Any,
        hire: Callable[[], Any],
        assignment: Any,
        shards: dict[int, int],
        report: Callable[[int], object],
    ) -> None:
        self._ray, self._hire, self._assignment = ray, hire, assignment
        self._shards, self._report = shards, report
        self._waiting = deque(shards)
        # What each call of a worker is about, in the order that they were made: a shard, or None
        # for its beginning.
        self._calls: dict[Any, tuple[Any, int | None]] = {}
        self._workers: list[Any] = []  # all that were asked for, and not lost
        self._begun: list[Any] = []
        self._losses: Counter[int | None] = Counter()
        self._said: set[str] = set()

    def run(self, team: Team) -> None:
        """Until all shards are there."""
        for _ in range(min(team.count, len(self._waiting))):
            self._start_one()
        while self._waiting or self._are_scored():
            ready, _ = self._ray.wait(list(self._calls), timeout=_PATIENCE)
            for call in ready:
                if call in self._calls:
                    self._settle(call)
            if not ready and not self._are_scored():
                self._require_machines()
                free = self._ray.available_resources()
                self._tell(
                    f"Ray has started no worker yet: each takes {team.threads} CPUs and "
                    f"{team.gpus:g} GPUs, of which {free.get('CPU', 0):g} and "
                    f"{free.get('GPU', 0):g} are free"
                )

    def end(self) -> None:
        """Leave no worker behind, whatever it does."""
        for worker in self._workers:
            self._ray.kill(worker)

    def _are_scored(self) -> bool:
        return any(number is not None for _, number in self._calls.values())

    def _require_machines(self) -> None:
        """Others may come, but not to a Ray whose first one has ended as well."""
        if not any(node["Alive"] for node in self._ray.nodes()):
            raise RuntimeError("Ray has ended; the same command again resumes the run")

    def _start_one(self) -> None:
        worker = self._hire()
        self._workers.append(worker)
        self._calls[worker.begin.remote(self._assignment)] = worker, None

    def _settle(self, call: Any) -> None:
        """Take what a call has brought, and give its worker more to do."""
        worker, number = self._calls[call]
        try:
            notes = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            raise _reason_of(error) from error
        except self._ray.exceptions.RayError as error:
            self._replace(worker, error)
            return
        del self._calls[call], self._losses[number]
        if number is None:
            self._begun.append(worker)
        else:
            self._report(self._shards[number])
            for note in notes:
                self._tell(note)
        self._feed(worker)

    def _feed(self, worker: Any) -> None:
        """Tell a worker what to do next."""
        # Near the end, what one is told of ahead is what another could do.
        ahead = _AHEAD if len(self._waiting) > len(self._workers) else 1
        busy = sum(other is worker for other, _ in self._calls.values())
        for _ in range(min(ahead - busy, len(self._waiting))):
            number = self._waiting.popleft()
            self._calls[worker.score.remote(number)] = worker, number

    def _replace(self, worker: Any, error: Exception) -> None:
        """Another worker does what this one has left undone."""
        self._ray.kill(worker)
        self._workers.remove(worker)
        self._begun = [other for other in self._begun if other is not worker]
        calls = [call for call, (other, _) in self._calls.items() if other is worker]
        undone = []
        for call in calls:
            _, number = self._calls.pop(call)
            try:
                self._ray.get(call)
            except self._ray.exceptions.RayError:
                undone.append(number)
            else:
                self._report(0 if number is None else self._shards[number])
        first, reason = undone[0], _first_line(error)
        self._losses[first] += 1
        when = "before it began" if first is None else f"in shard {first}"
        if self._losses[first] == _MOST_LOSSES:
            raise RuntimeError(f"{_MOST_LOSSES} workers have ended {when}: {reason}")
        log.warning("a worker has ended %s, and another takes over: %s", when, reason)
        self._waiting.extendleft(number for number in reversed(undone) if number is not None)
        self._start_one()
        for other in self._begun:  # which may have had nothing left to do
            self._feed(other)

    def _tell(self, note: str) -> None:
        """Once, although every worker may say it."""
        if note not in self._said:
            self._said.add(note)
            log.warning("%s", note)


def _reason_of(error: Any) -> BaseException:
    """What a worker has raised, without Ray's words around it."""
    if isinstance(error.cause, BaseException):
        return error.cause
    return RuntimeError(str(error).strip().splitlines()[-1])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _import_ray() -> Any:
    # Read when Ray is imported, or started. Its workers would give way to all else on the machine,
    # and hardly begin where anybody computes.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
    except ImportError as error:
        raise ImportError(
            f"workers need Ray, which is not installed ({error}); pip install 'pullback[ray]' "
            "brings it"
        ) from error
    return ray


@contextmanager
def _connected(team: Team) -> Iterator[Any]:
    """Ray's module, connected; what was connected before stays so."""
    ray = _import_ray()
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": team.address}
    if team.address is None:
        cpus = team.count * team.threads
        options = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
    # Ray's own words stay in its logs; those about a lost worker it would print.
    with redirect_stdout(io.StringIO()):
        try:
            with _same_handlers(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _initialise(ray, options)
            yield ray
        finally:
            with postpone_signals():
                ray.shutdown()


def _initialise(ray: Any, options: dict[str, Any]) -> None:
    try:
        ray.init(logging_level=logging.CRITICAL, log_to_driver=False, **options)
    except ConnectionError as error:
        address = options["address"]
        raise ConnectionError(f"there is no Ray at {address}: {_first_line(error)}") from error
    except Exception as error:  # as it is, without a kind of its own
        raise RuntimeError(f"Ray cannot be started: {_first_line(error)}") from error


@contextmanager
def _same_handlers() -> Iterator[None]:
    """Ray answers SIGTERM with SystemExit; whoever calls has an answer already."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as stop:
        if stop.code == signal.SIGTERM and callable(before):
            before(signal.SIGTERM, None)
        raise
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)
