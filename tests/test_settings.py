"""Settings: what is refused, with which words, and that the manual knows them all."""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path

import pytest

from b24sync.core.errors import SettingsError
from b24sync.edge.tokens import new_key
from b24sync.settings import Settings, from_mapping

README = Path(__file__).parents[1] / "README.md"
HUSH = "hush7hush7hush7hush7"
UNSET = {"", "-", "–", "—", "none", "not set"}  # noqa: RUF001 - dashes as people type them

POSITIVE = [
    "slice_batches",
    "slice_s",
    "connect_timeout_s",
    "request_timeout_s",
    "quiet_margin_s",
    "lease_s",
    "max_attempts",
    "retry_base_s",
    "retry_cap_s",
    "pump_s",
    "pump_width",
    "recover_s",
    "prune_s",
    "audit_s",
    "backfill_s",
    "result_days",
    "batch_days",
    "rollup_minute_days",
    "rollup_days",
    "closed_days",
    "budget_days",
]


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("database_url", "nonsense", "not a database address; write e.g. sqlite:///b24sync.db"),
        ("database_url", f"oracle://u:{HUSH}@h/x", "'oracle' is not supported; use sqlite"),
        ("database_url", 7, "text is needed, not int"),
        ("webhook_url", f"http://portal.example/rest/1/{HUSH}/", "must begin with https://"),
        ("webhook_url", f"https://portal.example/{HUSH}/", "the path is not that of a webhook"),
        ("webhook_url", f"https://u:{HUSH}@p.example/rest/1/a/", "holds a user name or password"),
        ("secret_key", HUSH, "key 1 is not a key"),
        ("secret_key", [new_key(), HUSH], "key 2 is not a key"),
        ("secret_key", [7], "text, or a list of texts, is needed"),
        ("queue", "", "is empty; name the queue of the tasks"),
        ("result_partition", "week", "'week' is none of month, day, none"),
        ("egress_group", "two words", "'two words' is no name: 1 to 64 letters, digits"),
        ("rate_reserve", -1, "-1.0; 0 or more is needed"),
        ("batch_size", 0, "0; from 1 to 50"),
        ("batch_size", "51", "51; from 1 to 50"),
        ("batch_size", 2.5, "a whole number is needed, not 2.5"),
        ("batch_size", "2.5", "a whole number is needed, not '2.5'"),
        ("batch_size", "many", "a whole number is needed, not 'many'"),
        ("batch_size", True, "a whole number is needed, not bool"),
        ("pump_s", "often", "a number is needed, not 'often'"),
        ("pump_s", "nan", "a number is needed, not 'nan'"),
        ("pump_s", float("inf"), "a number is needed, not inf"),
        ("pump_s", 10**400, "a number is needed, not 1000"),
        ("pump_s", [5], "a number is needed, not list"),
        ("ca_bundle", "/nowhere/ca.pem", "there is no file /nowhere/ca.pem"),
        ("kinds", "contact", "a mapping of names to kinds is needed"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(
    name: str, value: object, complaint: str
) -> None:
    """The line names the setting and the problem, and repeats no secret."""
    with pytest.raises(SettingsError) as caught:
        from_mapping({f"b24sync_{name}": value})

    assert str(caught.value).startswith(f"{name}: {complaint}")
    assert HUSH not in str(caught.value)
    assert caught.value.setting == name


@pytest.mark.parametrize("name", POSITIVE)
@pytest.mark.parametrize("value", [0, -1])
def test_spans_and_counts_are_more_than_nothing(name: str, value: int) -> None:
    """A timeout of nothing is not a timeout that never ends, it is an error."""
    with pytest.raises(SettingsError, match=rf"^{name}: {value}\S*; more than 0 is needed"):
        from_mapping({f"b24sync_{name}": value})


def test_an_unknown_setting_is_refused_with_those_that_are_known() -> None:
    """A misspelt name would leave a default in force without a word."""
    with pytest.raises(
        SettingsError,
        match=r"^b24sync_pumps: is unknown; known are audit_s, backfill_s, batch_days, ",
    ):
        from_mapping({"b24sync_pumps": 3})


def test_other_keys_are_not_looked_at() -> None:
    """A configuration is full of what is not ours."""
    settings = from_mapping({"broker_url": 3, "B24SYNC_PUMP_S": "often", "b24sync_pump_s": 2})

    assert settings == Settings(pump_s=2.0)


def test_none_is_the_default() -> None:
    """``os.environ.get`` in a host's configuration says None for what nobody has set."""
    assert from_mapping({"b24sync_webhook_url": None, "b24sync_pump_s": None}) == Settings()


@pytest.mark.parametrize("form", ["text", "list"])
def test_several_keys_are_a_list_or_a_text_with_commas(form: str) -> None:
    """The first encrypts, all decrypt; blanks around a comma are no part of a key."""
    new, old = new_key(), new_key()
    given = f"{new}, {old}," if form == "text" else [new, old]

    assert from_mapping({"b24sync_secret_key": given}).secret_key == (new, old)


def test_no_credential_is_shown() -> None:
    """Settings may stand in a traceback or a log."""
    key = new_key()
    settings = Settings(
        database_url=f"postgresql://u:{HUSH}@h/x",
        webhook_url=f"https://portal.example/rest/1/{HUSH}/",
        secret_key=(key,),
    )

    shown = f"{settings!r} {settings}"

    assert HUSH not in shown
    assert key not in shown


def _documented() -> Mapping[str, str]:
    """The table under "## Settings" of the README: setting to default, both as plain text."""
    _, _, section = README.read_text(encoding="utf-8").partition("\n## Settings")
    section = section.partition("\n## ")[0]
    rows = [
        [cell.strip().strip("`").strip() for cell in line.strip().strip("|").split("|")]
        for line in section.splitlines()
        if line.lstrip().startswith("|")
    ]
    body = [row for row in rows if row[0] != "Setting" and set(row[0]) - set("-: ")]
    return {row[0].lower().removeprefix("b24sync_"): row[1] for row in body}


def _default(entry: "Field[object]") -> object:
    return entry.default if entry.default_factory is MISSING else entry.default_factory()


def test_the_manual_lists_every_setting_with_its_default() -> None:
    """The table of settings in the README is complete, and true."""
    documented = dict(_documented())
    documented.pop("broker_url", None)

    expected = {entry.name: _default(entry) for entry in fields(Settings)}

    assert set(documented) == set(expected)
    for name, default in expected.items():
        said = documented[name]
        if isinstance(default, int | float):
            assert float(said.split()[0]) == default, name
        elif not default:
            assert said.lower() in UNSET, name
        else:
            assert said == default, name


@pytest.mark.parametrize(
    "given",
    [{"batch_start": 0}, {"batch_start": 51}, {"method_limit_s": -1}, {"batch_share": 0}],
)
def test_bounds_of_a_request_that_make_no_sense_are_refused(given: Mapping[str, float]) -> None:
    """The setting is named."""
    with pytest.raises(SettingsError, match=next(iter(given))):
        from_mapping({f"b24sync_{name}": value for name, value in given.items()})
