"""The life of one add as a machine that is small enough to be explored to its end.

One row, one lane, two workers, a portal, and everything that may go wrong between them. Each step
stands for one transaction or one exchange of the package, which ``STANDS_FOR`` names; what a row or
a batch becomes is taken from the tables of moves in ``core.lifecycle``, and a step that they do not
know is an error of the model, or of the code.

Time is not counted: a lease may lapse while its owner lives, so many times; the quiet period of a
batch is over when the portal has surely stopped working on it, which is what it is there for. Only
a frozen process may be overtaken by it, so many times.

Whatever is closed and that nobody holds any more is forgotten, so that batches need no bound.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import NamedTuple

from b24sync.core.lifecycle import BATCH_MOVES, ROW_MOVES, BatchEvent, RowEvent
from b24sync.core.model import BatchState, RowState

OPEN = frozenset({BatchState.JOURNALLED, BatchState.SENDING, BatchState.DOUBT})
NOBODY = -1

STANDS_FOR = {
    "takes the lane": "edge.taking.take",
    "deals with the open batch": "edge.ledger.recover",
    "claims the row": "drain.claiming.claim",
    "ends the cancelled row": "edge.unsent.set_aside",
    "goes": "edge.ledger.go",
    "is too late to go": "edge.ledger.go",
    "writes to the socket": "edge.portal.PortalClient.send",
    "cannot connect and gives the batch back": "edge.ledger.give_back",
    "reads the answer": "edge.portal.PortalClient.send",
    "gives the answer up": "core.replies.unanswered",
    "settles": "edge.settling.settle",
    "settles what it does not know": "edge.settling.settle",
    "decides to look for it": "drain.reconciling.decide_doubts",
    "looks": "drain.looking.look",
    "looks in vain": "drain.looking.look",
    "reconciles": "edge.doubts.reconcile",
    "releases the lane": "edge.lanes.release",
    "finds the lane lost": "edge.lanes.keep",
    "audits the marker": "edge.duplicates.FoundBy.AUDIT",
}
"""What a worker does, and the function of the package that does it."""


class Row(NamedTuple):
    """The row: its state, ``None`` when it is gone, and the batch that it is in."""

    state: RowState | None
    batch: int = NOBODY


class Batch(NamedTuple):
    """A batch, and its one request.

    Shape: ``request`` is ``""`` before there is one, then ``under way``, ``answered`` or ``busy``
    (somebody waits for that), and ``over``. ``record`` is what it made. ``number`` is for people.
    """

    number: int
    state: BatchState
    quiet: bool = False
    request: str = ""
    record: int = 0


class Worker(NamedTuple):
    """A worker: where it stands, whether the lane is still its own, and what it knows.

    Shape: ``told`` is the record in the answer that it holds (-1, the portal was busy), or how many
    records it has found.
    """

    at: str = "idle"
    owns: bool = False
    batch: int = NOBODY
    told: int = 0


class State(NamedTuple):
    """Everything at one moment.

    Shape: ``link`` is the record that is the row's own; ``told_late`` are records of answers that
    came too late; ``reported`` are those that a person hears of, and who found them. ``kills`` and
    so on are left to happen.
    """

    row: Row
    held: bool
    open_batch: int
    batches: tuple[Batch, ...]
    workers: tuple[Worker, ...]
    records: int
    link: int
    results: int
    cancelled: bool
    told_late: frozenset[int]
    reported: frozenset[tuple[int, str]]
    dropped: bool
    kills: int
    lapses: int
    freezes: int
    numbered: int


class Fence(Enum):
    """What lets an answer be written down: that its batch is open, that the lane is ours, nothing."""

    BATCH = auto()
    LANE = auto()
    NONE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The protocol, and how it may be broken.

    ``doubts``: a lost answer puts the row in doubt; else it is tried again. ``quiet``: it is looked
    for only after the quiet period. ``go_by_epoch`` and ``go_by_state``: what the last step before
    the socket asks. ``fence``: what lets an answer be written down. ``recovers``: the open batch of
    an owner who went away is dealt with.
    """

    doubts: bool = True
    quiet: bool = True
    go_by_epoch: bool = True
    go_by_state: bool = True
    fence: Fence = Fence.BATCH
    recovers: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How often something may happen that nobody wants."""

    kills: int = 2
    lapses: int = 2
    freezes: int = 0


Step = tuple[str, State]


class Model:
    """All that may happen next, by the rules.

    ``used`` collects the moves of the package's tables that were made.
    """

    def __init__(self, rules: Rules, bounds: Bounds) -> None:
        """Begin with one row, ready, and nobody at work."""
        self.rules = rules
        self.bounds = bounds
        self.used: set[tuple[RowState, RowEvent] | tuple[BatchState, BatchEvent]] = set()

    def start(self) -> State:
        """One row, just written."""
        return State(
            row=Row(RowState.READY),
            held=False,
            open_batch=NOBODY,
            batches=(),
            workers=(Worker(), Worker()),
            records=0,
            link=0,
            results=0,
            cancelled=False,
            told_late=frozenset(),
            reported=frozenset(),
            dropped=False,
            kills=self.bounds.kills,
            lapses=self.bounds.lapses,
            freezes=self.bounds.freezes,
            numbered=0,
        )

    def steps(self, state: State) -> Iterator[Step]:
        """Everything that may happen next, in words, and what it leads to."""
        for place, worker in enumerate(state.workers):
            name = "AB"[place]
            for words, after in _WORK[worker.at](self, state, place):
                yield f"{name} {words}", after
            if worker.at != "idle" and state.kills:
                killed = _with_worker(state, place, Worker())
                yield f"{name} is killed", _unheard(killed, worker)._replace(kills=state.kills - 1)
        yield from self._of_the_portal(state)
        yield from self._of_time(state)
        if state.row.state is not None and not state.cancelled:
            yield "somebody asks to cancel the row", state._replace(cancelled=True)
        found = {record for record, _ in state.reported}
        others = {n for n in range(1, state.records + 1) if n != state.link} - found
        if state.link and others and is_at_rest(state):
            told = state.reported | {(record, "audit") for record in others}
            yield "an audit finds more records", state._replace(reported=told)

    def _of_the_portal(self, state: State) -> Iterator[Step]:
        for batch in state.batches:
            if batch.request != "under way":
                continue
            is_heard = any(w.at == "waiting" and w.batch == batch.number for w in state.workers)
            record = state.records + 1
            done = batch._replace(request="answered" if is_heard else "over", record=record)
            made = _with_batch(state, done)._replace(records=record)
            yield f"the portal executes batch {batch.number} and makes record {record}", made
            lost = batch._replace(request="over")
            yield f"the request of batch {batch.number} is lost", _with_batch(state, lost)
            if is_heard:
                busy = batch._replace(request="busy")
                yield f"the portal is too busy for batch {batch.number}", _with_batch(state, busy)

    def _of_time(self, state: State) -> Iterator[Step]:
        is_owned = any(worker.owns for worker in state.workers)
        if state.held and (not is_owned or state.lapses):
            words = "the lease lapses early" if is_owned else "the lease lapses"
            lapses = state.lapses - is_owned
            yield words, state._replace(held=False, lapses=lapses)
        for batch in state.batches:
            is_sent = batch.state in (BatchState.SENDING, BatchState.DOUBT)
            if not is_sent or batch.quiet or batch.request == "under way":
                continue
            frozen = any(w.at == "gone" and w.batch == batch.number for w in state.workers)
            if frozen and not state.freezes:
                continue
            over = _with_batch(state, batch._replace(quiet=True))
            words = f"the quiet period of batch {batch.number} is over"
            words += ", its sender frozen" if frozen else ""
            yield words, over._replace(freezes=state.freezes - frozen)

    def moved_row(self, row: Row, event: RowEvent, batch: int = NOBODY) -> Row:
        """The row after an event, which must be a legal one."""
        assert row.state is not None, f"a row that is gone: {event}"
        assert (row.state, event) in ROW_MOVES, f"no move of a row: {row.state} {event}"
        self.used.add((row.state, event))
        return Row(ROW_MOVES[row.state, event], batch)

    def moved_batch(self, batch: Batch, event: BatchEvent) -> Batch:
        """The batch after an event, which must be a legal one."""
        assert (batch.state, event) in BATCH_MOVES, f"no move of a batch: {batch.state} {event}"
        self.used.add((batch.state, event))
        return batch._replace(state=BATCH_MOVES[batch.state, event])


def is_at_rest(state: State) -> bool:
    """Whether nothing more happens to the row by itself."""
    is_quiet = all(batch.state not in OPEN for batch in state.batches)
    is_over = all(batch.request in ("", "over") for batch in state.batches)
    is_idle = all(worker.at == "idle" for worker in state.workers)
    return state.row.state is None and is_quiet and is_over and is_idle


def _batch(state: State, number: int) -> Batch:
    return next(batch for batch in state.batches if batch.number == number)


def _with_batch(state: State, batch: Batch) -> State:
    changed = tuple(batch if one.number == batch.number else one for one in state.batches)
    return state._replace(batches=changed)


def _with_worker(state: State, place: int, worker: Worker) -> State:
    workers = list(state.workers)
    workers[place] = worker
    return state._replace(workers=tuple(workers))


def _unheard(state: State, worker: Worker) -> State:
    """An answer on its way to a socket that nobody reads any more is gone."""
    if worker.at != "waiting":
        return state
    batch = _batch(state, worker.batch)
    if batch.request in ("answered", "busy"):
        return _with_batch(state, batch._replace(request="over"))
    return state


def _forgotten(state: State, number: int) -> State:
    """``lanes.close_batch``: the lane forgets this batch, and no other."""
    return state._replace(open_batch=NOBODY) if state.open_batch == number else state


def _is_in(state: State, number: int) -> bool:
    return state.row.batch == number


def _idle(_model: Model, state: State, place: int) -> Iterator[Step]:
    is_due = state.row.state is not None or any(b.state in OPEN for b in state.batches)
    if state.held or not is_due:
        return
    others = tuple(worker._replace(owns=False) for worker in state.workers)
    taken = state._replace(workers=others, held=True)
    at = "clear" if state.open_batch == NOBODY else "took"
    yield (
        "takes the lane",
        _with_worker(taken, place, Worker(at=at, owns=True, batch=state.open_batch)),
    )


def _took(model: Model, state: State, place: int) -> Iterator[Step]:
    number = state.workers[place].batch
    # A batch that is forgotten already was closed.
    batch = next((one for one in state.batches if one.number == number), None)
    after = state
    if batch is not None and model.rules.recovers:
        after = _recovered(model, state, batch)
    after = _forgotten(after, number)
    clear = state.workers[place]._replace(at="clear", batch=NOBODY)
    yield "deals with the open batch", _with_worker(after, place, clear)


def _recovered(model: Model, state: State, batch: Batch) -> State:
    if batch.state is BatchState.JOURNALLED:
        return _given_back(model, state, batch)
    if batch.state is BatchState.SENDING:
        move = _doubted if model.rules.doubts else _given_back
        return move(model, state, batch)
    return state


def _given_back(model: Model, state: State, batch: Batch) -> State:
    after = _with_batch(state, model.moved_batch(batch, BatchEvent.RETURN))
    if _is_in(state, batch.number):
        after = after._replace(row=model.moved_row(state.row, RowEvent.REQUEUE))
    return after


def _doubted(model: Model, state: State, batch: Batch) -> State:
    after = _with_batch(state, model.moved_batch(batch, BatchEvent.LOSE))
    if _is_in(state, batch.number):
        row = model.moved_row(state.row, RowEvent.LOSE, batch.number)
        after = after._replace(row=row)
    return after


def _clear(model: Model, state: State, place: int) -> Iterator[Step]:
    worker = state.workers[place]
    if not worker.owns:
        yield "finds the lane lost", _with_worker(state, place, Worker())
        return
    # Every step of an owner prolongs its lease.
    kept = state._replace(held=True)
    for batch in state.batches:
        if batch.state is BatchState.DOUBT and (batch.quiet or not model.rules.quiet):
            # While a batch is in doubt, so is its only row.
            assert _is_in(state, batch.number), "a batch in doubt without its row"
            asking = worker._replace(at="asking", batch=batch.number)
            yield "decides to look for it", _with_worker(kept, place, asking)
    if state.row.state is RowState.READY:
        yield _claimed(model, kept, place)
    else:
        yield "releases the lane", _released(state, place)


def _released(state: State, place: int) -> State:
    held = state.held and not state.workers[place].owns
    return _with_worker(state, place, Worker())._replace(held=held)


def _claimed(model: Model, state: State, place: int) -> Step:
    if state.cancelled:
        row = model.moved_row(state.row, RowEvent.CLOSE)
        return "ends the cancelled row", state._replace(row=row, results=state.results + 1)
    number = state.numbered + 1
    journalled = Batch(number, BatchState.JOURNALLED)
    after = state._replace(
        row=model.moved_row(state.row, RowEvent.CLAIM, number),
        batches=(*state.batches, journalled),
        open_batch=number,
        numbered=number,
    )
    worker = state.workers[place]._replace(at="journalled", batch=number)
    return "claims the row", _with_worker(after, place, worker)


def _journalled(model: Model, state: State, place: int) -> Iterator[Step]:
    worker = state.workers[place]
    batch = _batch(state, worker.batch)
    is_ours = worker.owns or not model.rules.go_by_epoch
    is_there = batch.state is BatchState.JOURNALLED
    if not is_ours or (model.rules.go_by_state and not is_there):
        yield "is too late to go", _released(state, place)
        return
    gone = _with_batch(state, model.moved_batch(batch, BatchEvent.GO)) if is_there else state
    held = state.held or worker.owns
    yield "goes", _with_worker(gone, place, worker._replace(at="gone"))._replace(held=held)


def _gone(model: Model, state: State, place: int) -> Iterator[Step]:
    worker = state.workers[place]
    batch = _batch(state, worker.batch)
    sent = _with_batch(state, batch._replace(request="under way"))
    yield "writes to the socket", _with_worker(sent, place, worker._replace(at="waiting"))
    back = state
    if batch.state in (BatchState.JOURNALLED, BatchState.SENDING):
        back = _given_back(model, state, batch)
    back = _forgotten(back, batch.number)
    yield "cannot connect and gives the batch back", _released(back, place)


def _waiting(_model: Model, state: State, place: int) -> Iterator[Step]:
    worker = state.workers[place]
    batch = _batch(state, worker.batch)
    if batch.request in ("answered", "busy"):
        told = batch.record if batch.request == "answered" else -1
        read = _with_batch(state, batch._replace(request="over"))
        yield (
            "reads the answer",
            _with_worker(read, place, worker._replace(at="holding", told=told)),
        )
    lost = _with_worker(state, place, worker._replace(at="lost"))
    yield "gives the answer up", _unheard(lost, worker)


def _holding(model: Model, state: State, place: int) -> Iterator[Step]:
    worker = state.workers[place]
    batch = _batch(state, worker.batch)
    clear = worker._replace(at="clear", batch=NOBODY, told=0)
    after = _with_worker(_forgotten(state, batch.number), place, clear)
    is_open = batch.state in (BatchState.SENDING, BatchState.DOUBT)
    if model.rules.fence is Fence.LANE and not worker.owns:
        # What a lane's fence does with an answer that is true.
        yield "throws the answer away", after._replace(dropped=state.dropped or is_open)
        return
    if is_open or model.rules.fence is not Fence.BATCH:
        after = _with_batch(after, model.moved_batch(batch, BatchEvent.SETTLE))
        if _is_in(state, batch.number):
            after = _judged(model, after, worker.told)
        yield "settles", after
        return
    if worker.told > 0:
        after = after._replace(told_late=state.told_late | {worker.told})
        if state.link and worker.told != state.link:
            after = after._replace(reported=state.reported | {(worker.told, "late answer")})
        if not state.link and state.row.state is None:
            after = after._replace(link=worker.told)
    yield "settles", after


def _judged(model: Model, state: State, told: int) -> State:
    if told < 0:
        return state._replace(row=model.moved_row(state.row, RowEvent.REQUEUE))
    return _finished(model, state, told, frozenset())


def _finished(model: Model, state: State, own: int, others: frozenset[int]) -> State:
    """``settling.write_out``: a final result, the link, and what is known to be too much."""
    late = {(record, "late answer") for record in state.told_late if record != own}
    seen = {(record, "look-up") for record in others}
    return state._replace(
        row=model.moved_row(state.row, RowEvent.FINISH),
        link=own,
        results=state.results + 1,
        reported=state.reported | late | seen,
    )


def _lost(model: Model, state: State, place: int) -> Iterator[Step]:
    worker = state.workers[place]
    batch = _batch(state, worker.batch)
    clear = worker._replace(at="clear", batch=NOBODY)
    after = _with_worker(_forgotten(state, batch.number), place, clear)
    if batch.state is BatchState.SENDING:
        move = _doubted if model.rules.doubts else _given_back
        after = move(model, after, batch)
    yield "settles what it does not know", after


def _asking(_model: Model, state: State, place: int) -> Iterator[Step]:
    worker = state.workers[place]
    seen = worker._replace(at="told", told=state.records)
    yield "looks", _with_worker(state, place, seen)
    yield "looks in vain", _released(state, place)


def _told(model: Model, state: State, place: int) -> Iterator[Step]:
    worker = state.workers[place]
    if not worker.owns:
        yield "finds the lane lost", _with_worker(state, place, Worker())
        return
    clear = worker._replace(at="clear", batch=NOBODY, told=0)
    after = _with_worker(state, place, clear)._replace(held=True)
    batch = next((one for one in state.batches if one.number == worker.batch), None)
    is_there = batch is not None and batch.state is BatchState.DOUBT and _is_in(state, batch.number)
    if batch is not None and is_there:
        after = _with_batch(after, model.moved_batch(batch, BatchEvent.RECONCILE))
        if worker.told:
            others = frozenset(range(2, worker.told + 1))
            after = _finished(model, after, 1, others)
        else:
            after = after._replace(row=model.moved_row(state.row, RowEvent.REQUEUE))
    yield "reconciles", after


_WORK = {
    "idle": _idle,
    "took": _took,
    "clear": _clear,
    "journalled": _journalled,
    "gone": _gone,
    "waiting": _waiting,
    "holding": _holding,
    "lost": _lost,
    "asking": _asking,
    "told": _told,
}
"""What a worker does next, by where it stands."""


def without_the_past(state: State) -> State:
    """The same without batches that nothing can happen to any more."""
    held = {worker.batch for worker in state.workers} | {state.row.batch, state.open_batch}
    kept = tuple(
        batch
        for batch in state.batches
        if batch.number in held or batch.state in OPEN or batch.request not in ("", "over")
    )
    return state if len(kept) == len(state.batches) else state._replace(batches=kept)


def key(state: State) -> object:
    """The state, however its batches are numbered and whichever worker is which."""
    places = {batch.number: place for place, batch in enumerate(state.batches)}
    places[NOBODY] = NOBODY
    workers = sorted(w._replace(batch=places.get(w.batch, -2)) for w in state.workers)
    return (
        state.row.state,
        places[state.row.batch],
        places[state.open_batch],
        tuple(batch[1:] for batch in state.batches),
        tuple(workers),
        *state[5:-1],
        state.held,
    )
