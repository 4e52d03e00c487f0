"""Policies of kinds: read, refused at their place, inherited, and held to what a kind can do."""

from collections.abc import Mapping

import pytest

from b24sync.core.errors import SettingsError
from b24sync.core.kind_table import KINDS
from b24sync.core.kinds import Kind, Method
from b24sync.core.policies import (
    DoubtPolicy,
    Orphans,
    Policy,
    declared_policies,
    policy_of,
    within,
)

STOCK = Kind(
    name="stock",
    add=Method(name="my.stock.add", id_path=()),
    list=Method(name="my.stock.list", fields_param="filter", id_path=("id",)),
)
DECLARED = {"stock": STOCK}


def declared(setting: Mapping[str, object]) -> dict[str, Policy]:
    """Policies beside one kind of the application's own."""
    return dict(declared_policies(setting, DECLARED))


def test_a_policy_merges_and_does_nothing_else_unless_told() -> None:
    """Each further thing costs a call or decides for the application."""
    policy = Policy()

    assert policy == Policy(
        merge=True,
        match=None,
        skip_unchanged=False,
        verify=False,
        orphans=Orphans.HOLD,
        doubt=DoubtPolicy.LOOK_UP,
    )


def test_every_part_of_a_policy_is_declared_by_plain_values() -> None:
    """As JSON or TOML would hold them."""
    setting = {
        "contact": {
            "merge": False,
            "match": "marker",
            "skip_unchanged": True,
            "verify": True,
            "orphans": "bury",
            "doubt": "resend",
        },
        "stock": {"match": "sku"},
        "item:1036": {"match": "ufCrm_1700000000"},
        "deal": {},
    }

    policies = declared(setting)

    assert policies == {
        "contact": Policy(
            merge=False,
            match="marker",
            skip_unchanged=True,
            verify=True,
            orphans=Orphans.BURY,
            doubt=DoubtPolicy.RESEND,
        ),
        "stock": Policy(match="sku"),
        "item:1036": Policy(match="ufCrm_1700000000"),
        "deal": Policy(),
    }


@pytest.mark.parametrize(
    ("written", "doubt"),
    [
        ("look-up", DoubtPolicy.LOOK_UP),
        ("resend", DoubtPolicy.RESEND),
        ("hold", DoubtPolicy.HOLD),
    ],
)
def test_what_becomes_of_a_lost_answer_is_declared_by_a_word(
    written: str, doubt: DoubtPolicy
) -> None:
    """Of a kind, or of every kind that says nothing of its own."""
    policies = declared({"*": {"doubt": written}, "quote": {"merge": False}})

    assert policies == {"*": Policy(doubt=doubt), "quote": Policy(doubt=doubt, merge=False)}


def test_no_declaration_is_no_policy() -> None:
    """An empty setting is legal."""
    policies = declared({})

    assert policies == {}


def test_a_kind_has_its_own_policy_or_that_of_every_kind_or_the_default() -> None:
    """The first of the three that exists."""
    own, shared = Policy(merge=False), Policy(verify=True)

    assert policy_of("deal", {"deal": own, "*": shared}) is own
    assert policy_of("contact", {"deal": own, "*": shared}) is shared
    assert policy_of("contact", {"deal": own}) == Policy()


def test_what_a_kind_leaves_out_is_as_for_every_kind() -> None:
    """A kind's entry changes single keys, wherever the entry of every kind stands."""
    setting = {
        "contact": {"merge": True, "match": None},
        "*": {"merge": False, "match": "marker", "skip_unchanged": True, "orphans": "bury"},
        "deal": {"orphans": "hold"},
    }

    policies = declared(setting)

    assert policies == {
        "contact": Policy(skip_unchanged=True, orphans=Orphans.BURY),
        "*": Policy(merge=False, match="marker", skip_unchanged=True, orphans=Orphans.BURY),
        "deal": Policy(merge=False, match="marker", skip_unchanged=True),
    }


def test_of_what_every_kind_shall_do_a_kind_does_what_it_can() -> None:
    """Only what is said of a kind by its name is refused."""
    setting = {"*": {"match": "marker", "verify": True}, "stock": {"merge": False}, "quote": {}}

    policies = declared(setting)

    assert policies["stock"] == Policy(merge=False)
    assert policies["quote"] == Policy(verify=True)


@pytest.mark.parametrize(
    ("name", "asked", "left"),
    [
        ("contact", Policy(match="marker", verify=True), Policy(match="marker", verify=True)),
        ("contact", Policy(match="phone"), Policy(match="phone")),
        ("quote", Policy(match="marker", verify=True), Policy(verify=True)),
        ("quote", Policy(match="title"), Policy(match="title")),
        ("task.comment", Policy(match="POST_MESSAGE"), Policy()),
        ("address", Policy(match="CITY", verify=True), Policy()),
        ("user", Policy(match="marker", verify=True), Policy(match="marker")),
        ("calendar_event", Policy(verify=True, merge=False), Policy(merge=False)),
        ("task", Policy(verify=True), Policy(verify=True)),
    ],
)
def test_a_policy_within_a_kind_asks_for_nothing_that_it_cannot_do(
    name: str, asked: Policy, left: Policy
) -> None:
    """No marker, no list, no get, or a get that answers with names of its own."""
    policy = within(asked, KINDS[name])

    assert policy == left


@pytest.mark.parametrize(
    ("setting", "place", "problem"),
    [
        pytest.param({"contakt": {}}, "policies.contakt", "no known kind", id="unknown kind"),
        pytest.param({"item:5": {}}, "policies.item:5", "no known kind", id="refused type"),
        pytest.param({1: {}}, "policies.1", "no known kind", id="name no text"),
        pytest.param({"deal": []}, "policies.deal", "must be a mapping of merge", id="no mapping"),
        pytest.param({"*": None}, "policies.*", "must be a mapping of merge", id="nothing"),
        pytest.param(
            {"deal": {"verfy": True}},
            "policies.deal.verfy",
            "choose from merge, match, skip_unchanged, verify, orphans, doubt",
            id="unknown key",
        ),
        pytest.param(
            {"*": {"verfy": True}}, "policies.*.verfy", "choose from merge", id="key for every kind"
        ),
        pytest.param({"deal": {"merge": 1}}, "policies.deal.merge", "true or false", id="merge"),
        pytest.param(
            {"deal": {"skip_unchanged": "yes"}},
            "policies.deal.skip_unchanged",
            "true or false",
            id="skip unchanged",
        ),
        pytest.param({"deal": {"verify": 0}}, "policies.deal.verify", "true or false", id="verify"),
        pytest.param({"deal": {"match": ""}}, "policies.deal.match", "not empty", id="match"),
        pytest.param(
            {"*": {"orphans": "Bury"}},
            "policies.*.orphans",
            "must be one of hold, bury",
            id="orphans",
        ),
        pytest.param(
            {"quote": {"doubt": "lookup"}},
            "policies.quote.doubt",
            "must be one of look-up, resend, hold",
            id="doubt",
        ),
        pytest.param(
            {"stock": {"match": "marker"}}, "policies.stock.match", "has no marker", id="no marker"
        ),
        pytest.param(
            {"task.comment": {"match": "POST_MESSAGE"}},
            "policies.task.comment.match",
            "no list that tells ids",
            id="no list",
        ),
        pytest.param(
            {"address": {"match": "CITY"}},
            "policies.address.match",
            "no list that tells ids",
            id="no ids",
        ),
        pytest.param(
            {"user": {"verify": True}}, "policies.user.verify", "user has no get", id="no get"
        ),
        pytest.param(
            {"activity.todo": {"verify": True}},
            "policies.activity.todo.verify",
            "other names than it takes",
            id="other names",
        ),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_at_its_place(
    setting: Mapping[str, object], place: str, problem: str
) -> None:
    """The error names the place, and says what would be right."""
    with pytest.raises(SettingsError) as refusal:
        declared(setting)

    assert refusal.value.setting == place
    assert problem in refusal.value.problem
