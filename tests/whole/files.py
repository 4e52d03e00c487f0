"""The files that the whole-house tests load, and what a portal must hold once they are through.

The files are looked for beside the checkout, in ``../shared/data``, or where ``B24SYNC_TEST_DATA``
says. Without them, files of the same shapes are written here: few rows, always the same, in many
scripts. Either way the expectation is made from the files by this module alone.
"""

import csv
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any

VARIABLE = "B24SYNC_TEST_DATA"
BESIDE = Path(__file__).parents[3] / "shared" / "data"
COMPANIES = "companies-sp500.csv"
UNIVERSITIES = "universities.ndjson"
ROWS = 200

Fields = dict[str, Any]

NOTE = "Ünï çødé · Łódź · Ελλάδα · Россия · 中文 · العربية · עברית · हिन्दी · 한국어 · 🏛️𐐔𐐯𐑅 & = + % [x] ?"
"""Said of every record, so that every command carries what an encoding may lose."""

_WORDS = (
    "Ångström",
    "Universität Łódź",
    "Εθνικό Μετσόβιο",
    "Балтийский банк",
    "東京大学",
    "جامعة القاهرة",
    "האוניברסיטה",
    "विश्वविद्यालय",
    "서울대학교",
    "𐐔𐐯𐑅𐐨𐑉𐐯𐐻 Göttingen",
    "🏛️ Academy 👩🏽‍🎓",
    "𠮷野家 & Söhne",
    "O'Reilly + 50% = “all”",
    "Smith [& Wesson] #1?",
)
_ENDINGS = ("", " Bank", " Institute of Technology", " College", " Ağ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loading:
    """One file, and how ``b24sync load`` is told to read it.

    Shape: ``fields`` and ``constants`` by the portal's field; ``stored`` is the name under which
    the portal shows a field, where it is another.
    """

    path: Path
    kind: str
    key: str
    fields: Mapping[str, str]
    constants: Mapping[str, str]
    stored: Mapping[str, str]

    @property
    def options(self) -> tuple[str, ...]:
        """The arguments of ``b24sync load``."""
        given = ["--kind", self.kind, "--key", self.key]
        for name, column in self.fields.items():
            given += ["--field", f"{name}={column}"]
        for name, value in self.constants.items():
            given += ["--set", f"{name}={value}"]
        return (*given, str(self.path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of a file as a change: which entity, and what the portal is to show of it."""

    entity: str
    shown: Fields


def loadings(folder: Path) -> tuple[Loading, ...]:
    """Both files, companies first; written into ``folder`` if there are none."""
    found = Path(os.environ.get(VARIABLE, BESIDE))
    if not (found / COMPANIES).is_file() or not (found / UNIVERSITIES).is_file():
        _write(folder)
        found = folder
    companies = Loading(
        path=found / COMPANIES,
        kind="company",
        key="Symbol",
        fields={
            "title": "Security",
            "industry": "GICS Sector",
            "ufCrmBranch": "GICS Sub-Industry",
            "ufCrmHeadquarters": "Headquarters Location",
            "ufCrmFounded": "Founded",
        },
        constants={"comments": NOTE},
        stored={
            "ufCrmBranch": "UF_CRM_BRANCH",
            "ufCrmHeadquarters": "UF_CRM_HEADQUARTERS",
            "ufCrmFounded": "UF_CRM_FOUNDED",
        },
    )
    universities = Loading(
        path=found / UNIVERSITIES,
        kind="import:4",
        key="{alpha_two_code}:{name}",
        fields={
            "title": "name",
            "ufCrmCountry": "country",
            "ufCrmProvince": "state_province",
            "ufCrmDomains": "domains",
            "ufCrmPages": "web_pages",
        },
        constants={"comments": NOTE},
        stored={
            "ufCrmCountry": "UF_CRM_COUNTRY",
            "ufCrmProvince": "UF_CRM_PROVINCE",
            "ufCrmDomains": "UF_CRM_DOMAINS",
            "ufCrmPages": "UF_CRM_PAGES",
        },
    )
    return companies, universities


def last_lines(loading: Loading, lines: int, folder: Path) -> Loading:
    """The same loading of the last lines of its file, where most repeated keys are."""
    kept = loading.path.read_bytes().splitlines(keepends=True)[-lines:]
    path = folder / loading.path.name
    path.write_bytes(b"".join(kept))
    return replace(loading, path=path)


def entries(loading: Loading) -> list[Entry]:
    """The lines of a file in their order, as the portal is to show each."""
    return [_entry(loading, line) for line in _lines(loading.path)]


def last_of_each(every: Iterable[Entry]) -> dict[str, Fields]:
    """What the portal is to hold: a line whose key came before changes the same record again."""
    return {entry.entity: entry.shown for entry in every}


def repeated(every: Iterable[Entry]) -> list[str]:
    """The entities that stand in more than one line, in the order of their first."""
    return [entity for entity, lines in Counter(e.entity for e in every).items() if lines > 1]


def _entry(loading: Loading, line: Fields) -> Entry:
    key = loading.key.format_map(line) if "{" in loading.key else line[loading.key]
    entity = f"{loading.kind}:{key}"
    shown: Fields = {"originatorId": "b24sync", "originId": entity}
    for name, column in loading.fields.items():
        if loading.path.suffix == ".csv" and line[column] == "":
            # An empty cell says nothing, so nothing is sent.
            continue
        # A query string has no null: what is unknown arrives as empty text.
        value = "" if line[column] is None else line[column]
        shown[loading.stored.get(name, name)] = value
    return Entry(entity=entity, shown=shown | dict(loading.constants))


def _lines(path: Path) -> Iterator[Fields]:
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            yield from csv.DictReader(file)
        else:
            yield from (json.loads(line) for line in file)


def _write(folder: Path) -> None:
    with (folder / COMPANIES).open("w", encoding="utf-8", newline="") as file:
        columns = ("Symbol", "Security", "GICS Sector", "GICS Sub-Industry")
        writer = csv.writer(file)
        writer.writerow((*columns, "Headquarters Location", "Founded"))
        for number, name in zip(range(ROWS), _names(0), strict=False):
            place = f'{name}, "the {number}th"'
            founded = 1800 + number if number % 7 else ""
            writer.writerow((f"C.{number}", name, "Energy, other", "Öl", place, founded))
    with (folder / UNIVERSITIES).open("w", encoding="utf-8") as file:
        for number, name in zip(range(ROWS), _names(ROWS), strict=False):
            # Every tenth stands twice, with other domains the second time.
            twice = (0, 1) if number % 10 == 0 else (0,)
            for time in twice:
                university = _university(number, name, time)
                file.write(json.dumps(university, ensure_ascii=number % 2 == 0) + "\n")
        # Two keys that differ in case are two keys.
        for number, name in enumerate(("Gateway College", "GateWay College"), start=1):
            file.write(json.dumps(_university(number, name, 0)) + "\n")


def _university(number: int, name: str, time: int) -> Fields:
    domains = [f"u{number}-{time}-{position}.example" for position in range(1 + number % 3)]
    return {
        "name": name,
        "country": "Κύπρος" if number % 4 else "Côte d'Ivoire",
        "alpha_two_code": "CY" if number % 4 else "CI",
        "state_province": name if number % 3 else None,
        "domains": domains,
        "web_pages": [f"https://{domain}/?q=ä&x[]={time}" for domain in domains],
    }


def _names(first: int) -> Iterator[str]:
    for number, word, ending in zip(count(first), cycle(_WORDS), _spread(_ENDINGS), strict=False):
        yield f"{word} {number}{ending}"


def _spread(endings: tuple[str, ...]) -> Iterator[str]:
    """Each ending several times in a row, so that it meets every word."""
    for ending in cycle(endings):
        yield from islice(cycle((ending,)), 3)
