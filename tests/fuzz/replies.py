"""Batches, what a portal would answer them, and that answer spoiled in every way."""

import copy
import json
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from b24sync.core.model import Batch, Command, Operation, Row

Tree = Any
"""A decoded JSON document, whose shape is the question."""

STATUSES: tuple[int, ...] = (
    200,
    200,
    200,
    200,
    200,
    200,
    201,
    204,
    299,
    301,
    302,
    307,
    400,
    401,
    403,
    404,
    405,
)
STATUSES += (408, 413, 414, 422, 429, 500, 500, 502, 503, 503, 504, 520, 599, 600, 999)

CODES: tuple[str, ...] = (
    "QUERY_LIMIT_EXCEEDED",
    "OPERATION_TIME_LIMIT",
    "expired_token",
    "NO_AUTH_FOUND",
    "",
)
CODES += ("INTERNAL_SERVER_ERROR", "ACCESS_DENIED", "NOT_FOUND", "ERROR_CORE", "OVERLOAD_LIMIT")
CODES += ("ERROR_BATCH_LENGTH_EXCEEDED", "PORTAL_DELETED", "insufficient_scope", "never heard of")

STRANGE: tuple[Tree, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    7.5,
    1e308,
    10**40,
    2**63,
    "",
    " ",
    "0",
    "-1",
    "007",
    "NaN",
    "1e400",
    "9" * 30,
    "\0",
    "\ud800",
    "<br><b>no</b>",
    "\u0661",
    "x" * 5000,
    [],
    {},
    [[]],
    [None],
    {"": ""},
    {"0": 1},
    [{"item": {"id": 5}}],
    {"item": []},
    {"item": {"id": [1]}},
    {"error": None},
    {"error": {"code": 5, "message": ["a", {"b": "c"}]}},
    {"error": 200040300010, "error_description": None},
    {"error": ["x"], "error_description": {"a": "b"}},
)

SECTIONS = ("result", "result_error", "result_total", "result_next", "result_time")

_KINDS = (
    (Operation.ADD, "crm.item.add", ("item", "id")),
    (Operation.ADD, "crm.contact.add", ()),
    (Operation.UPDATE, "crm.item.update", None),
    (Operation.DELETE, "crm.item.delete", None),
    (Operation.CALL, "user.current", None),
)


def any_batch(random: Random) -> tuple[Batch, Mapping[int, Row]]:
    """A batch as planning makes them, of up to fifty commands, some of several rows; and its rows."""
    count = random.choice((1, 1, 2, 3, 3, 5, 8, 50))
    rows: dict[int, Row] = {}
    commands: list[Command] = []
    for _ in range(count):
        operation, method, id_path = random.choice(_KINDS)
        first = len(rows) + 1
        ids = tuple(range(first, first + random.choice((1, 1, 1, 2, 3))))
        rows |= {number: _row(random, number, operation) for number in ids}
        commands.append(_command(random, ids, operation, (method, id_path)))
    batch = Batch(
        labels=tuple(command.label for command in commands),
        commands=tuple(commands),
        halt=random.random() < 0.5,
        single=count == 1 and random.random() < 0.5,
    )
    return batch, rows


def _row(random: Random, number: int, operation: Operation) -> Row:
    return Row(
        id=number,
        portal="default",
        lane=0,
        kind="contact",
        key=f"k{number}",
        operation=random.choice((operation, Operation.UPSERT)),
        fields={"name": "x"},
        params=None,
        attempts=random.choice((0, 0, 1, 7, 100)),
    )


def _command(
    random: Random,
    ids: tuple[int, ...],
    operation: Operation,
    wording: tuple[str, tuple[str, ...] | None],
) -> Command:
    method, id_path = wording
    is_add = operation is Operation.ADD
    return Command(
        row_ids=ids,
        kind="contact",
        key=f"k{ids[0]}",
        operation=operation,
        method=method,
        query="a=1",
        remote_id=None if is_add else "17",
        marker="m" if is_add else None,
        id_path=id_path,
        gone=random.choice(((), (("", r"\bnot found\b"),))),
        linked=operation is not Operation.CALL,
        repeatable=operation in (Operation.UPDATE, Operation.DELETE),
        lead=random.choice((None, ids[-1])),
        remainder={"a": 1} if is_add and random.random() < 0.1 else None,
    )


def well_formed(random: Random, batch: Batch) -> Tree:
    """What a portal answers: some done, some refused, and after a refusal under halt nothing."""
    if batch.single:
        if random.random() < 0.3:
            return {**_complaint(random), "time": _time(random)}
        return {"result": _done(random, batch.commands[0]), "time": _time(random)}
    if random.random() < 0.1:
        return _complaint(random)
    done: dict[str, Tree] = {}
    failed: dict[str, Tree] = {}
    for label, command in zip(batch.labels, batch.commands, strict=True):
        if random.random() < 0.2:
            failed[label] = _complaint(random)
            if batch.halt:
                break
        else:
            done[label] = _done(random, command)
    sections: dict[str, Tree] = {
        "result": done or [],
        "result_error": failed or [],
        "result_total": [],
        "result_next": [],
        "result_time": {label: _time(random) for label in done} or [],
    }
    return {"result": sections, "time": _time(random)}


def _done(random: Random, command: Command) -> Tree:
    number = random.randint(1, 10**6)
    if command.id_path:
        return {"item": {"id": number}}
    return random.choice((number, str(number), True, None, False, []))


def _complaint(random: Random) -> dict[str, Tree]:
    text = random.choice(("Not found", "\u043d\u0435\u0442", "<b>no</b>", "", "Access denied."))
    return {"error": random.choice(CODES), "error_description": text}


def _time(random: Random) -> dict[str, Tree]:
    return {
        "start": 1.0,
        "duration": random.random(),
        "operating": random.random() * 480,
        "operating_reset_at": 1_800_000_000 + random.random() * 600,
    }


def spoiled(random: Random, body: Tree, labels: tuple[str, ...]) -> Tree:
    """The same answer, with up to six things wrong with it."""
    body = copy.deepcopy(body)
    for _ in range(random.choice((0, 1, 1, 2, 2, 3, 4, 6))):
        body = random.choice(_SPOILERS)(random, body, labels)
    return body


def _places(tree: Tree) -> list[tuple[Tree, Tree]]:
    """Every place in a tree: what holds it, and under which key."""
    found: list[tuple[Tree, Tree]] = []
    level = [tree]
    while level:
        holder = level.pop()
        keys = holder if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                level.append(holder[key])
    return found


def _somewhere(random: Random, body: Tree) -> tuple[Tree, Tree] | None:
    places = _places(body) if isinstance(body, dict | list) else []
    # Near the root is where an answer is read.
    return random.choice(places[: random.choice((2, 8, len(places)))]) if places else None


def _replace(random: Random, body: Tree, _labels: tuple[str, ...]) -> Tree:
    place = _somewhere(random, body)
    if place is None or random.random() < 0.03:
        return copy.deepcopy(random.choice(STRANGE))
    place[0][place[1]] = copy.deepcopy(random.choice(STRANGE))
    return body


def _remove(random: Random, body: Tree, _labels: tuple[str, ...]) -> Tree:
    place = _somewhere(random, body)
    if place is not None:
        del place[0][place[1]]
    return body


def _wrap(random: Random, body: Tree, _labels: tuple[str, ...]) -> Tree:
    place = _somewhere(random, body)
    if place is not None:
        holder, key = place
        inner = holder[key]
        holder[key] = random.choice(([inner], {"result": inner}, {"0": inner}, [inner, inner]))
    return body


def _unwrap(random: Random, body: Tree, _labels: tuple[str, ...]) -> Tree:
    place = _somewhere(random, body)
    if place is not None and place[0][place[1]] and isinstance(place[0][place[1]], dict):
        place[0][place[1]] = random.choice(list(place[0][place[1]].values()))
    return body


def _bury(random: Random, body: Tree, _labels: tuple[str, ...]) -> Tree:
    place = _somewhere(random, body)
    if place is not None:
        deep: Tree = []
        for _ in range(random.choice((10, 120))):
            deep = [deep]
        place[0][place[1]] = deep
    return body


def _sections(body: Tree) -> dict[str, Tree] | None:
    result = body.get("result") if isinstance(body, dict) else None
    return result if isinstance(result, dict) else None


def _swap(random: Random, body: Tree, _labels: tuple[str, ...]) -> Tree:
    sections = _sections(body)
    if sections is not None:
        one, other = random.sample(SECTIONS, 2)
        sections[one], sections[other] = sections.get(other, []), sections.get(one, [])
    return body


def _listed(random: Random, body: Tree, _labels: tuple[str, ...]) -> Tree:
    """PHP's own way with keys: a section becomes a list, or an object of numbers."""
    sections = _sections(body)
    if sections is not None:
        name = random.choice(SECTIONS[:2])
        section = sections.get(name)
        if isinstance(section, dict):
            values = list(section.values())
            sections[name] = random.choice(
                (values, {str(place): value for place, value in enumerate(values)})
            )
    return body


def _moved(random: Random, body: Tree, labels: tuple[str, ...]) -> Tree:
    """A label in another section, in both, under another name, or one that nobody sent."""
    sections = _sections(body)
    if sections is None:
        return body
    label = random.choice((*labels, "r999", "0", f"{labels[0]} ", labels[0].upper()))
    name = random.choice(("result", "result_error", "result_time"))
    if not isinstance(sections.get(name), dict):
        sections[name] = {}
    sections[name][label] = copy.deepcopy(random.choice(STRANGE))
    return body


def _lifted(random: Random, body: Tree, _labels: tuple[str, ...]) -> Tree:
    """Wrong nesting: the sections stand one level too high or too low."""
    sections = _sections(body)
    if sections is None or not isinstance(body, dict):
        return body
    return random.choice((sections, {"result": body}, {**body, **sections}, [body]))


def _accused(random: Random, body: Tree, _labels: tuple[str, ...]) -> Tree:
    if not isinstance(body, dict):
        return body
    complaint = _complaint(random) | {"error": copy.deepcopy(random.choice((*CODES, *STRANGE)))}
    return {**body, **complaint} if random.random() < 0.7 else complaint


_Spoiler = Callable[[Random, Tree, tuple[str, ...]], Tree]

_SPOILERS: tuple[_Spoiler, ...] = (_replace, _replace, _remove, _wrap, _unwrap, _bury, _swap)
_SPOILERS += (_listed, _moved, _moved, _lifted, _accused)


def written(random: Random, body: Tree) -> bytes:
    """A document as bytes, now and then with duplicate keys, cut, or with wrong bytes in it."""
    text = json.dumps(body, ensure_ascii=random.random() < 0.5)
    sort = random.random()
    if sort < 0.1 and '"result"' in text:
        text = text.replace('"result":', '"result": {"result": {"r1": 1}}, "result":', 1)
    elif sort < 0.15:
        text = text.replace("1", random.choice(("NaN", "1e400", "-0", "01", "9" * 5000)), 1)
    raw = text.encode(errors="surrogatepass")
    if sort > 0.9:
        place = random.randrange(len(raw))
        raw = random.choice(
            (raw[:place], raw[:place] + b"\xff" + raw[place:], raw + raw, b"\0" + raw)
        )
    elif sort > 0.85:
        raw = random.choice(
            (b"\xef\xbb\xbf" + raw, b"\n\n" + raw, text.encode("utf-16", "replace"))
        )
    return raw
