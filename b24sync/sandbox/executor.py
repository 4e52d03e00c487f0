"""Running commands: limits, delays, faults and bookkeeping around each method.

One lock guards the store; it is held while a method runs and never while anything waits.
"""

import threading
import time
from dataclasses import dataclass
from random import Random

from b24sync.sandbox.config import SandboxConfig
from b24sync.sandbox.faults import FaultPlan
from b24sync.sandbox.journal import ExecutedCommand, Journal
from b24sync.sandbox.limits import OperatingMeter
from b24sync.sandbox.methods import METHODS
from b24sync.sandbox.store import Call, Done, Store
from b24sync.sandbox.values import Record, Refusal, Value


class OutOfTime(Exception):  # noqa: N818 - the request is over; nothing here is in error
    """The request is cut before this command: no time, or a fault's share of work, is left."""


@dataclass(slots=True, kw_only=True)
class Session:
    """One request under way: who calls, and how much of its time is used."""

    number: int
    user_id: int
    credential: str
    """webhook or oauth."""
    started_at: float
    """Unix time, seconds."""
    simulated_s: float = 0.0
    """Time that commands are taken to need but that nobody waited for."""
    commands_left: int | None = None
    """How many more commands a fault lets run; None: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What one command came to: exactly one of done and refusal."""

    done: Done | None
    refusal: Refusal | None
    time: Record
    """The `time` object of its answer."""


class Executor:
    """Runs commands against one store."""

    def __init__(self, config: SandboxConfig, faults: FaultPlan, journal: Journal) -> None:
        """Start with an empty portal."""
        self.config = config
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.store = Store(config)
        self.operating = OperatingMeter(config)
        self.costs = dict(config.method_costs)
        self._dice = Random(config.seed)  # noqa: S311 - repeatable, and nothing is secret
        self._faults = faults
        self._journal = journal

    def reset(self) -> None:
        """Forget all records and used time."""
        with self.lock:
            self.store = Store(self.config)
            self.operating.clear()
            self.costs = dict(self.config.method_costs)
            self._dice = Random(self.config.seed)  # noqa: S311 - as above

    def run(self, session: Session, label: str, method: str, params: Record) -> Ran:
        """Run one command, or refuse it before it runs.

        Raises: OutOfTime if the request is cut before it.
        """
        charged = "batch" if label and self.config.operating_charged_to_batch else method
        with self.lock:
            blocked = self.operating.blocks(session.credential, charged, time.time())
            cost_s = 0.0 if blocked else self._cost(method)
        taken_s = self._spend(session, cost_s)
        started_at = time.time()
        call = Call(
            method=method,
            params=params,
            user_id=session.user_id,
            at=started_at,
            by_oauth=session.credential == "oauth",
        )
        with self.lock:
            done, refusal = self._outcome(session, label, charged, call)
            finished_at = time.time()
            taken_s += finished_at - started_at
            if done is not None:
                self.operating.charge(session.credential, charged, taken_s, finished_at)
            self._note(session, label, call, done=done, refusal=refusal)
            stated = self.time_of(session, charged, finished_at - taken_s, taken_s)
        return Ran(done=None if refusal else done, refusal=refusal, time=stated)

    def refuse(self, session: Session, label: str, method: str, refusal: Refusal) -> None:
        """Note a command that is refused without reaching its method."""
        call = Call(method=method, params={}, user_id=session.user_id, at=time.time())
        with self.lock:
            self._note(session, label, call, done=None, refusal=refusal)

    def time_of(self, session: Session, method: str, started_at: float, taken_s: float) -> Record:
        """The `time` object of an answer; the operating numbers are those of a method."""
        finished_at = started_at + taken_s
        whole = self.config.integer_times
        stated: Record = {
            "start": int(started_at) if whole else started_at,
            "finish": finished_at,
            "duration": taken_s,
            "processing": int(taken_s) if whole else taken_s,
            "date_start": self.store.stamp(started_at),
            "date_finish": self.store.stamp(finished_at),
        }
        if self.config.operating_reported:
            used, reset_at = self.operating.used(session.credential, method, time.time())
            stated["operating_reset_at"] = reset_at
            stated["operating"] = used
        return stated

    def _cost(self, method: str) -> float:
        """What the next command of a method takes; for use under the lock."""
        cost = self.costs.get(method, 0.0)
        return self._dice.uniform(*cost) if isinstance(cost, tuple) else cost

    def _spend(self, session: Session, cost_s: float) -> float:
        """Wait and count the time of a command before it runs."""
        if session.commands_left is not None:
            if session.commands_left <= 0:
                raise OutOfTime
            session.commands_left -= 1
        waited_s, simulated_s = self.config.command_latency_s, cost_s
        if self.config.costs_are_waited:
            waited_s, simulated_s = waited_s + cost_s, 0.0
        limit = self.config.request_limit_s
        used = time.time() - session.started_at + session.simulated_s
        if limit is not None and used + waited_s + simulated_s > limit:
            self.pause(min(waited_s, max(0.0, limit - used)))
            raise OutOfTime
        session.simulated_s += simulated_s
        self.pause(waited_s)
        return waited_s + simulated_s

    def pause(self, seconds: float) -> None:
        """Wait, unless the sandbox is being stopped."""
        if seconds > 0:
            self.stopping.wait(seconds)

    def _outcome(
        self, session: Session, label: str, charged: str, call: Call
    ) -> tuple[Done | None, Refusal | None]:
        """What the method answered if it ran, and why the command failed if it did."""
        if self.operating.blocks(session.credential, charged, call.at):
            blocked = "Method is blocked due to operation time limit."
            return None, Refusal("OPERATION_TIME_LIMIT", blocked, 429)
        armed = self._faults.any_armed
        fault = self._faults.for_command(label, call.method, call.params) if armed else None
        planned = None if fault is None else fault.refusal
        if fault is not None and not fault.executed:
            return None, planned
        action = METHODS.get(call.method)
        if action is None:
            return None, Refusal("ERROR_METHOD_NOT_FOUND", "Method not found!", 404)
        try:
            return action(self.store, call), planned
        except Refusal as refusal:
            return None, refusal

    def _note(
        self,
        session: Session,
        label: str,
        call: Call,
        *,
        done: Done | None,
        refusal: Refusal | None,
    ) -> None:
        self._journal.add_command(
            ExecutedCommand(
                number=len(self._journal.commands) + 1,
                request=session.number,
                at=call.at,
                label=label,
                method=call.method,
                params=call.params,
                ok=refusal is None,
                code="" if refusal is None else str(refusal.code),
                text="" if refusal is None else refusal.text,
                id=None if done is None else done.id,
                executed=done is not None,
            )
        )


def ids_as_text(value: Value) -> Value:
    """A method's result with its ids as text, as some portals and methods have it.

    Raises: nothing.
    """
    if isinstance(value, dict):
        return {
            name: str(member)
            if name.lower() == "id" and isinstance(member, int)
            else ids_as_text(member)
            for name, member in value.items()
        }
    if isinstance(value, list):
        return [ids_as_text(member) for member in value]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
