"""Outbox rows as no application writes them, and any row that plain SQL can write."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

Columns = dict[str, object]

HALF = "\\ud800"
NUL = "\\u0000"
NAMED = '{"name":"x"}'
LOWEST, HIGHEST = -(2**63), 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Worst:
    """One row, and how it ends where a database takes it.

    Shape: ``columns`` over those of an add of a contact; ``ends`` is an outcome, or ``held``, or what
    the reason of its dead letter begins with.
    """

    name: str
    columns: Mapping[str, object]
    ends: str


def _row(name: str, ends: str, **columns: object) -> Worst:
    return Worst(name=name, columns=columns, ends=ends)


def _fields(name: str, ends: str, text: str) -> Worst:
    return _row(name, ends, fields=text)


def _reference(name: str, inside: str, ends: str = "bad_reference: fields.companyId") -> Worst:
    return _fields(f"reference {name}", ends, f'{{"companyId":{{"$ref":{inside}}}}}')


def _call(method: str, ends: str = "bad_method: method") -> Worst:
    columns = {"kind": "call", "operation": "call", "method": method, "fields": None}
    return Worst(name=f"call {method!r:.20}", columns={**columns, "params": "{}"}, ends=ends)


def _to(kind: str, key: str) -> str:
    return json.dumps({"$ref": {"kind": kind, "key": key}})


def _number(name: str, digits: str, ends: str) -> Worst:
    return _fields(name, ends, f'{{"name":{digits}}}')


def _deep(name: str, levels: int, ends: str) -> Worst:
    return _fields(name, ends, f'{{"name":{"[" * levels}{"]" * levels}}}')


WORST = (
    # What should be an object of names.
    _fields("a list", "not_an_object: fields", "[1,2]"),
    _fields("a number", "not_an_object: fields", "7"),
    _fields("a text", "not_an_object: fields", '"x"'),
    _fields("a truth", "not_an_object: fields", "true"),
    _fields("null", "missing: fields", "null"),
    _fields("nothing", "missing: fields", "{}"),
    _fields("a reference", "not_an_object: fields", _to("company", "a")),
    _row("params of a list", "not_an_object: params", fields=NAMED, params="[1]"),
    _row("written before time", "applied", fields=NAMED, created_at=LOWEST),
    # Sizes.
    _fields("nine megabytes", "too_large: fields", json.dumps({"name": "x" * 9_000_000})),
    _fields("twenty megabytes", "too_large: fields", json.dumps({"name": "x" * 20_000_000})),
    _fields(
        "a hundred thousand fields",
        "too_many_values: fields",
        json.dumps({f"f{number}": number for number in range(100_000)}),
    ),
    _fields("a name of a megabyte", "applied", json.dumps({"n" * 1_000_000: 1})),
    _deep("a hundred levels", 100, "too_deep: fields.name"),
    _deep("nine hundred levels", 900, "unreadable: fields"),
    _deep("ten thousand levels", 10_000, "unreadable: fields"),
    _fields("ten thousand objects", "unreadable: fields", '{"a":' * 10_000 + "1" + "}" * 10_000),
    # Numbers.
    _number("five thousand digits", "9" * 5000, "unreadable: fields"),
    _number("four thousand digits", "9" * 4000, "out_of_range: fields.name"),
    _number("a long fraction", f"0.{'9' * 5000}", "out_of_range: fields.name"),
    _number("1e400", "1e400", "applied"),
    _number("1e5000", "1e5000", "out_of_range: fields.name"),
    _number("a tiny one", "1e-400", "applied"),
    _number("beyond all numbers", f"1e{'9' * 20}", "unreadable: fields"),
    _number("minus nothing", "-0", "applied"),
    _number("minus nothing at all", "-0.0", "applied"),
    # Names and texts.
    _fields("a name with a dot", "applied", '{"a.b":1}'),
    _fields("a name with a bracket", "bad_name: fields.a[b", '{"a[b":1}'),
    _fields("no name", "bad_name: fields.''", '{"":1}'),
    _fields("a space as name", "bad_name: fields. ", '{" ":1}'),
    _fields("a NUL in a name", "bad_name: fields.'a\\x00'", f'{{"a{NUL}":1}}'),
    _fields("half a name", "bad_name: fields.'a\\ud800'", f'{{"a{HALF}":1}}'),
    _fields("a name from right to left", "applied", '{"\u202e\u200b":1}'),
    _fields("a name twice", "applied", '{"name":1,"name":2}'),
    _fields("a NUL", "bad_text: fields.name", f'{{"name":"a{NUL}"}}'),
    _fields("half a character", "bad_text: fields.name", f'{{"name":"a{HALF}"}}'),
    _fields("somebody's result", "applied", '{"name":"$result[r1][item][id]"}'),
    _fields("a name that is a result", "bad_name: fields.$result[r1]", '{"$result[r1]":1}'),
    _row("somebody's result as key", "applied", entity_key="$result[r2]", fields=NAMED),
    # Keys and kinds.
    _row("the longest key", "applied", entity_key="k" * 190),
    _row("the longest key in bytes", "applied", entity_key="\U0001f3db" * 190),
    _row("any sign in a key", "applied", entity_key="\u202e%00\x7f\x01\x1b[31m'\"`;--?:{}%s"),
    _row("a NUL in a key", "bad_text: fields.originId", entity_key="a\0b"),
    _row("no such kind", "unknown_kind: kind", kind="nosuch"),
    _row("a kind with a NUL", "unknown_kind: kind", kind="no\0such"),
    _row("a kind of signs", "unknown_kind: kind", kind="no\nsuch%s{}"),
    _row("no smart process", "unknown_kind: kind", kind="item:0"),
    _row("an endless smart process", "unknown_kind: kind", kind="item:" + "9" * 50),
    _row("a smart process in other digits", "unknown_kind: kind", kind="item:\u0661"),
    # References, or nearly.
    _reference("with more", '{"kind":"company","key":"a"},"x":1'),
    _reference("of a text", '"company a"'),
    _reference("of null", "null"),
    _reference("of a number", '{"kind":"company","key":7}'),
    _reference("of a NUL", f'{{"kind":"company","key":"a{NUL}"}}'),
    _reference("of half a key", f'{{"kind":"company","key":"a{HALF}"}}'),
    _reference("of a long key", f'{{"kind":"company","key":"{"k" * 191}"}}'),
    _reference("of no key", '{"kind":"company","key":""}'),
    _reference("of a key that no row has", '{"kind":"company","key":" a "}'),
    _reference("to no kind", '{"kind":"nosuch","key":"a"}', "unknown_kind: fields.companyId"),
    _reference("to nobody yet", '{"kind":"company","key":"a"}', "held"),
    _row(
        "a reference to itself",
        "circle: fields",
        entity_key="self",
        fields=f'{{"companyId":{_to("contact", "self")}}}',
    ),
    _row(
        "a circle in params",
        "circle: fields",
        entity_key="around",
        params=f'{{"x":{_to("contact", "around")}}}',
    ),
    _fields("a reference far below", "too_deep: fields.a", f'{{"a":{"[" * 130}{"]" * 130}}}'),
    # Headers, which are copied and never read.
    *(
        _row(f"headers {name}", "applied", fields=NAMED, headers=text)
        for name, text in (
            ("of a list", "[1]"),
            ("of a number", "7"),
            ("of null", "null"),
            ("of a fraction", "1.50"),
            ("of many digits", "9" * 5000),
            ("of a number beyond all", f'{{"a":1e{"9" * 20}}}'),
            ("of a megabyte", json.dumps({"a": "x" * 1_000_000})),
            ("of many levels", "[" * 900 + "]" * 900),
            ("of more levels", "[" * 10_000 + "]" * 10_000),
            ("of half a character", f'{{"a":"{HALF}"}}'),
            ("of a NUL", f'{{"a":"{NUL}"}}'),
            ("of the text of a NUL", '{"a":"\\\\u0000"}'),
        )
    ),
    # Times and numbers of the row itself.
    _row("expired", "expired", fields=NAMED, expires_at=1),
    _row("expired before time", "expired", fields=NAMED, expires_at=LOWEST),
    _row("never expired", "applied", fields=NAMED, expires_at=HIGHEST),
    _row("due before time", "applied", fields=NAMED, due_at=LOWEST),
    _row("first of all", "applied", fields=NAMED, priority=-32768),
    _row("last of all", "applied", fields=NAMED, priority=32767),
    _row("a negative generation", "applied", fields=NAMED, generation=-(2**31)),
    _row("many attempts", "applied", fields=NAMED, attempts=2_000_000_000),
    # Methods.
    *map(_call, ("user/current", "user current", "../x", "a\nb", "a\0b", "batch", "BATCH", "")),
    *map(_call, (".", "..", "user.current?x=1", "user.current#", "\u00fc.x", "%2e", "\x7f")),
    _call("a" * 128, "ERROR_METHOD_NOT_FOUND"),
    _row(
        "a call with fields",
        "call_with_fields: fields",
        operation="call",
        method="user.current",
        params="{}",
    ),
    # Multi-value fields and external keys.
    _fields("values of a number", "bad_value: fields.fm", '{"fm":7}'),
    _fields("values within values", "bad_value: fields.fm.PHONE[0]", '{"fm":{"PHONE":[[["1"]]]}}'),
    _fields("half a value", "bad_text: fields.fm[0].value", f'{{"fm":{{"PHONE":["{HALF}"]}}}}'),
    _fields("half a sort of values", "bad_value: fields.fm", f'{{"fm":{{"{HALF}":["1"]}}}}'),
    _fields("half a row", "bad_name: fields.fm.n0", f'{{"fm":{{"n0":{{"{HALF}":"1"}}}}}}'),
    _fields("an object as marker", "bad_marker: originId", '{"originId":{"a":1}}'),
    _fields("half a marker", "bad_text: fields.originId", f'{{"originId":"{HALF}"}}'),
    _fields("a fraction as marker", "bad_marker: originId", '{"originId":1.5}'),
    _fields("a long marker", "bad_marker: originId", f'{{"originId":"{"x" * 300}"}}'),
)

KINDS: tuple[str, ...] = (
    "contact",
    "contact",
    "company",
    "deal",
    "item:1036",
    "call",
    "crm.contact",
    "task",
)
KINDS += ("address", "product_rows", "activity", "nosuch", "item:0", "CONTACT")
OPERATIONS = ("add", "upsert", "upsert", "update", "delete", "call", "destroy")
METHODS = (None, "user.current", "crm.item.get", "batch", "a/b", "", "\x01", "$result[r1]")
NAMES: tuple[str, ...] = (
    "name",
    "title",
    "fm",
    "companyId",
    "originId",
    "PHONE",
    "UF_X",
    "a.b",
    "a[b",
    "",
    " ",
)
NAMES += ("$ref", "kind", "key", "$result[r1]", NUL, HALF, "\u202e", "id", "n0", "ID", "VALUE")


def any_row(random: Random, key: str) -> Columns:
    """The columns of a row that somebody wrote by hand, with bad luck."""
    row: Columns = {
        "kind": random.choice(KINDS),
        "entity_key": random.choice((key, key, key, "shared", f"{key}\n\u202e'", key * 20)),
        "operation": random.choice(OPERATIONS),
        "fields": random.choice((None, NAMED, _object(random, 4), _object(random, 4))),
        "params": random.choice((None, None, _object(random, 3))),
        "method": random.choice(METHODS),
    }
    for name, choose in _RARELY.items():
        if random.random() < 0.1:
            row[name] = choose(random)
    return row


_RARELY: Mapping[str, Callable[[Random], object]] = {
    "fields": lambda random: _value(random, 3),
    "params": lambda random: _value(random, 3),
    "headers": lambda random: _value(random, 3),
    "generation": lambda random: random.choice((-1, 1, 2**31 - 1)),
    "priority": lambda random: random.choice((-32768, 32767)),
    "expires_at": lambda random: random.choice((LOWEST, 0, HIGHEST)),
    "due_at": lambda random: random.choice((LOWEST, -1, 1, HIGHEST)),
    "mergeable": lambda _random: False,
    "cancel_requested": lambda _random: True,
    "doubt_policy": lambda random: random.choice(("hold", "resend", "nosuch")),
    "marker": lambda _random: "m\x01",
    "attempts": lambda random: random.choice((7, 8, 1_000_000)),
}

_LEAVES: tuple[str, ...] = (
    "1",
    "-0",
    "1e400",
    "1e-400",
    "1.50",
    "true",
    "false",
    "null",
    '"x"',
    '""',
    "[]",
    "{}",
)
_LEAVES += ("9" * 400, "9" * 5000, f'"{NUL}"', f'"{HALF}"', '"\\ud83c\\udfdb"', '"$result[r1]"')
_LEAVES += ("NaN", "1e99999", '"\u202e\x7f"', '"2026-01-31T10:00:00+03:00"', "[[[[1]]]]", "01")


def _value(random: Random, depth: int) -> str:
    """A JSON value as text; now and then what is none."""
    sort = random.random()
    if depth == 0 or sort < 0.5:
        return random.choice(_LEAVES)
    if sort < 0.7:
        return f"[{','.join(_value(random, depth - 1) for _ in range(random.randint(0, 3)))}]"
    if sort < 0.8:
        kind, key = random.choice(("company", "contact", "nosuch")), random.choice("abc")
        more = random.choice(("", "", ',"x":1'))
        return f'{{"$ref":{{"kind":"{kind}","key":"{key}"}}{more}}}'
    return _object(random, depth - 1)


def _object(random: Random, depth: int) -> str:
    # Mostly names that are good: else nearly every row would be refused for its names.
    pairs = (
        f'"{random.choice(NAMES if random.random() < 0.2 else NAMES[:7])}":{_value(random, depth)}'
        for _ in range(random.randint(0, 4))
    )
    return f"{{{','.join(pairs)}}}"
