"""Which redirects are believed; every host written by hand."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from b24sync.core.errors import SettingsError
from b24sync.core.hosts import (
    CLOUD_ZONES,
    Distrust,
    Move,
    check_trusted,
    decide,
    is_callable,
    origin_of,
    steps,
    trail_of,
)

HERE = "https://acme.bitrix24.com"
OWN = "https://crm.acme.example"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("acme.bitrix24.com", "https://acme.bitrix24.com"),
        ("HTTPS://Acme.Bitrix24.COM/", "https://acme.bitrix24.com"),
        ("https://acme.bitrix24.com.", "https://acme.bitrix24.com"),
        ("https://acme.bitrix24.com:443", "https://acme.bitrix24.com"),
        ("https://acme.bitrix24.com:8443", "https://acme.bitrix24.com:8443"),
        ("http://127.0.0.1:80", "http://127.0.0.1"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("https://xn--mller-kva.example", "https://xn--mller-kva.example"),
        ("https://[2001:DB8:0:0::1]", "https://[2001:db8::1]"),
        ("https://[::1]:8443", "https://[::1]:8443"),
        ("localhost", "https://localhost"),
        ("https://müller.example", None),
        ("https://acme.bitrix24。com", None),
        ("https://acme.bitrix24.com..", None),
        ("https://acme..bitrix24.com", None),
        ("https://-acme.example", None),
        ("https://" + "a" * 64 + ".example", None),
        ("https://" + "a." * 130 + "example", None),
        ("https://user@acme.bitrix24.com", None),
        ("https://acme.bitrix24.com@evil.example", None),
        ("https://evil.example\\@acme.bitrix24.com", None),
        ("https://acme.bitrix24.com/rest/", None),
        ("https://acme.bitrix24.com?x", None),
        ("https://acme.bitrix24.com#x", None),
        ("https://acme.bitrix24.com:", None),
        ("https://acme.bitrix24.com:0", None),
        ("https://acme.bitrix24.com:65536", None),
        ("https://acme.bitrix24.com:x", None),
        ("https://acme%2ebitrix24.com", None),
        ("https://acme .example", None),
        ("https://acme.example\n", None),
        ("https://[::1", None),
        ("https://::1", None),
        ("https://2130706433", None),
        ("https://127.0.0.0x1", None),
        ("https://1.2.3.256", None),
        ("ftp://acme.example", None),
        ("https://", None),
        ("", None),
    ],
)
def test_an_address_has_one_form_or_is_none(text: str, expected: str | None) -> None:
    """What two programs could read differently is no address."""
    assert origin_of(text) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://acme.example", True),
        ("http://127.0.0.1:9000", True),
        ("http://localhost", True),
        ("http://[::1]", True),
        ("http://acme.example", False),
        ("http://localhost.example", False),
        ("acme", False),
    ],
)
def test_a_secret_goes_out_encrypted_or_stays_on_this_machine(
    address: str, *, expected: bool
) -> None:
    """Plain HTTP is for the sandbox."""
    assert is_callable(address) is expected


@pytest.mark.parametrize(
    ("present", "told"),
    [
        (HERE, "https://acme-2.bitrix24.com"),
        (HERE, "https://acme.bitrix24.de"),
        (HERE, "https://acme.bitrix24.com.br"),
        (HERE, "https://ACME.bitrix24.EU."),
        ("http://localhost", "https://localhost"),
    ],
)
def test_the_cloud_and_the_same_host_are_believed(present: str, told: str) -> None:
    """From portal to portal of the cloud, and from http to https on one host."""
    assert decide(present, told) == Move(to=told.lower().removesuffix("."))


@pytest.mark.parametrize("zone", sorted(CLOUD_ZONES))
def test_every_zone_of_the_cloud_is_one_at_both_ends(zone: str) -> None:
    """And a host that only ends like one, or begins like one, is none."""
    assert decide(HERE, f"https://a.{zone}") == Move(to=f"https://a.{zone}")
    assert decide(f"https://a.{zone}", HERE) == Move(to=HERE)
    for other in (f"a.evil{zone}", f"evil{zone}", f"a.{zone}.evil.example", zone, f"a.b.{zone}"):
        assert isinstance(decide(HERE, f"https://{other}"), Distrust)


@pytest.mark.parametrize(
    ("present", "told", "reason"),
    [
        pytest.param(HERE, OWN, f"to {OWN}, which is not among the trusted hosts", id="own domain"),
        pytest.param(OWN, HERE, f"to {HERE}, which is not among the trusted hosts", id="from own"),
        pytest.param(
            HERE,
            "https://a.bitrix24.com:8443",
            "to https://a.bitrix24.com:8443, which is not among the trusted hosts",
            id="port of the cloud",
        ),
        pytest.param(
            "https://acme.bitrix24.com:8443",
            "https://a.bitrix24.com",
            "to https://a.bitrix24.com, which is not among the trusted hosts",
            id="from a port of the cloud",
        ),
        pytest.param(
            HERE,
            "https://www.bitrix24.com",
            "to https://www.bitrix24.com, which is not among the trusted hosts",
            id="the vendor's own site",
        ),
        pytest.param(
            OWN,
            f"{OWN}:8443",
            f"to {OWN}:8443, which is not among the trusted hosts",
            id="another port of the same host",
        ),
        pytest.param(
            "http://127.0.0.1:9000",
            "http://127.0.0.1:9001",
            "to http://127.0.0.1:9001, which is not among the trusted hosts",
            id="another port of this machine",
        ),
        pytest.param(
            HERE,
            "http://acme.bitrix24.com",
            "to http://acme.bitrix24.com, which is not https",
            id="plain http",
        ),
        pytest.param(
            HERE, "http://127.0.0.1", "to http://127.0.0.1, which is not https", id="this machine"
        ),
        pytest.param(
            "http://127.0.0.1",
            "http://acme.example",
            "to http://acme.example, which is not https",
            id="plain http from this machine",
        ),
        pytest.param(
            HERE,
            "https://ACME.bitrix24.com:443",
            f"to {HERE}, where it is called already",
            id="itself",
        ),
        pytest.param(HERE, None, "to no address that can be called", id="nowhere"),
        pytest.param(
            HERE,
            f"https://{'a.' * 124}ab.cd:12345",
            "to no address that can be called",
            id="too long to be stored",
        ),
        pytest.param(
            HERE, "https://u@a.bitrix24.com", "to no address that can be called", id="user"
        ),
        pytest.param(
            "nonsense!",
            HERE,
            f"to {HERE}, and its stored address cannot be read",
            id="no present address",
        ),
    ],
)
def test_what_nobody_vouches_for_is_not_believed(
    present: str, told: str | None, reason: str
) -> None:
    """The reason says where the redirect leads."""
    decision = decide(present, told)

    assert isinstance(decision, Distrust)
    assert decision.reason == reason


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["", "https://", "http://", "//", HERE, "https://a.bitrix24.de"]),
    st.text(st.sampled_from(list("aevil.bitrix24comde/:@\\%[]#?-_0x1 é。\t\n")), max_size=30),
)
def test_no_text_leads_a_portal_of_the_cloud_out_of_it(beginning: str, rest: str) -> None:
    """Whatever a redirect says; and the one form of an address is its own one form."""
    told = beginning + rest

    decision = decide(HERE, told)
    form = origin_of(told)

    assert form is None or origin_of(form) == form
    if isinstance(decision, Move):
        assert re.fullmatch(r"https://[a-z0-9_-]+\.bitrix24\.[a-z.]+", decision.to)
        assert decision.to.partition(".")[2] in CLOUD_ZONES


def test_only_an_address_that_a_person_can_confirm_is_named_for_it() -> None:
    """Neither plain HTTP, nor where the portal is already."""
    told = (OWN, "http://crm.acme.example", HERE, None)

    named = [decide(HERE, address) for address in told]

    assert [entry.to for entry in named] == [OWN, None, None, None]


@pytest.mark.parametrize(
    ("entry", "told", "is_trusted"),
    [
        ("crm.acme.example", OWN, True),
        ("CRM.Acme.Example.", OWN, True),
        ("crm.acme.example:443", OWN, True),
        ("crm.acme.example", "https://crm.acme.example:8443", False),
        ("crm.acme.example:8443", "https://crm.acme.example:8443", True),
        ("crm.acme.example:8443", OWN, False),
        ("acme.example", OWN, False),
        (".acme.example", OWN, True),
        (".acme.example", "https://a.crm.acme.example", True),
        (".acme.example", "https://crm.acme.example:8443", False),
        (".acme.example", "https://acme.example", False),
        (".acme.example", "https://evilacme.example", False),
        (".acme.example", "https://crm.acme.example.evil.example", False),
        ("xn--mller-kva.example", "https://xn--mller-kva.example", True),
        ("xn--mller-kva.example", "https://muller.example", False),
        ("[::1]:8443", "https://[0::1]:8443", True),
        ("192.0.2.7", "https://192.0.2.7", True),
        ("not a host", OWN, False),
    ],
)
def test_a_trusted_host_is_that_host_and_a_suffix_what_stands_below_it(
    entry: str, told: str, *, is_trusted: bool
) -> None:
    """Label by label, and at the port that is named."""
    assert isinstance(decide(HERE, told, trusted=["x.example", entry]), Move) is is_trusted


def test_a_trusted_host_of_this_machine_may_be_called_in_plain() -> None:
    """As the sandbox is."""
    decision = decide("http://127.0.0.1:1", "http://127.0.0.1:2", trusted=["127.0.0.1:2"])

    assert decision == Move(to="http://127.0.0.1:2")


@pytest.mark.parametrize(
    "entry",
    [
        "",
        ".",
        ".com",
        ".192.0.2.7",
        ".acme.example:8443",
        "https://a.example",
        "a b",
        "*.a.example",
    ],
)
def test_a_trusted_host_that_is_none_is_refused(entry: str) -> None:
    """By its setting, with the entry and examples of good ones."""
    with pytest.raises(SettingsError) as caught:
        check_trusted(["crm.example.com", entry])

    assert caught.value.setting == "trusted_hosts"
    assert repr(entry) in str(caught.value)
    assert ".example.com" in str(caught.value)


def test_good_trusted_hosts_are_taken() -> None:
    """Hosts, ports and suffixes."""
    check_trusted(["crm.example.com", "crm.example.com:8443", ".example.com", "[::1]"])


@pytest.mark.parametrize(
    ("trail", "ago_ms", "is_believed"),
    [
        ((OWN,), 3_599_999, False),
        ((OWN,), 3_600_000, True),
        ((OWN,), None, True),
        ((HERE, OWN), 0, False),
        ((HERE,), 0, True),
        ((), 0, True),
        (("https://CRM.acme.example.:443",), 0, False),
    ],
)
def test_a_circle_of_redirects_is_left_within_the_hour(
    trail: tuple[str, ...], ago_ms: int | None, *, is_believed: bool
) -> None:
    """Back to any address it had, however many there were; later it may have moved in earnest."""
    here = "https://b.acme.example"

    decision = decide(here, OWN, trusted=["crm.acme.example"], trail=trail, moved_ms_ago=ago_ms)

    assert isinstance(decision, Move) is is_believed
    if isinstance(decision, Distrust):
        assert decision.reason == f"back to {OWN}, where it came from a short while ago"


def test_a_trail_keeps_the_addresses_newest_first() -> None:
    """Each once."""
    first = trail_of(None, "https://a", "https://b")
    second = trail_of(first, "https://b", "https://c")
    third = trail_of(second, "https://c", "https://a")
    fourth = trail_of(third, "https://c", "https://d")

    assert (first, second) == ("https://a", "https://b https://a")
    assert steps(third) == ("https://c", "https://b")
    assert steps(fourth) == ("https://c", "https://b")
    assert steps(None) == ()


def test_a_trail_that_is_too_long_loses_its_middle() -> None:
    """The oldest is what a person has stored, and is never forgotten."""
    a, b, c = (f"https://{letter * 60}.{letter * 50}.example" for letter in "abc")

    trail = trail_of(f"{b} {a}", c, OWN)

    assert len(f"{c} {b} {a}") > 255
    assert steps(trail) == (c, a)
    assert steps(trail_of(a, "https://" + "d" * 200, OWN)) == (a,)
