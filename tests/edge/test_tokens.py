"""How credentials are read, stored and shown: what is accepted, and that nothing leaks."""

import traceback

import pytest

from b24sync.core.errors import CredentialError, SettingsError
from b24sync.edge.portal import Credential
from b24sync.edge.tokens import (
    AuthKind,
    Keyring,
    Webhook,
    credential_for,
    key_id,
    masked,
    new_key,
    parse_webhook,
)

SECRET = "s3cr3tc0de"  # noqa: S105 - made up, and looked for in everything that may be shown
OLD = "b2xkLW9sZC1vbGQtb2xkLW9sZC1vbGQtb2xkLW9sZC0="
NEW = "bmV3LW5ldy1uZXctbmV3LW5ldy1uZXctbmV3LW5ldy0="


def shown(error: BaseException) -> str:
    """Give all that a traceback would print, and the chain behind it."""
    assert error.__context__ is None
    return "".join(traceback.format_exception(error)) + repr(error)


@pytest.mark.parametrize(
    ("url", "base_url"),
    [
        (f"https://a.bitrix24.com/rest/1/{SECRET}/", "https://a.bitrix24.com"),
        (f"https://a.bitrix24.com/rest/1/{SECRET}", "https://a.bitrix24.com"),
        (f"  https://A.Bitrix24.com/rest/1/{SECRET}/\n", "https://a.bitrix24.com"),
        (f"https://a.bitrix24.com/rest/1/{SECRET}/profile.json", "https://a.bitrix24.com"),
        (f"https://a.bitrix24.com/rest/1/{SECRET}/crm.deal.add", "https://a.bitrix24.com"),
        (f"https://crm.example:8443/rest/1/{SECRET}/", "https://crm.example:8443"),
        (f"http://127.0.0.1:8000/rest/1/{SECRET}/", "http://127.0.0.1:8000"),
        (f"http://localhost/rest/1/{SECRET}/", "http://localhost"),
        (f"http://[::1]:8000/rest/1/{SECRET}/", "http://[::1]:8000"),
    ],
)
def test_a_webhook_is_read_as_people_copy_it(url: str, base_url: str) -> None:
    """A method name, a missing slash and white space around do not matter."""
    webhook = parse_webhook(url)

    assert webhook == Webhook(base_url=base_url, path=f"rest/1/{SECRET}/")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "path"),
        (f"http://a.bitrix24.com/rest/1/{SECRET}/", "begin with https://"),
        (f"http://127.0.0.1.evil.example/rest/1/{SECRET}/", "begin with https://"),
        (f"ftp://localhost/rest/1/{SECRET}/", "begin with https://"),
        (f"a.bitrix24.com/rest/1/{SECRET}/", "path"),
        (f"https://a.bitrix24.com/rest/{SECRET}/", "path"),
        (f"https://a.bitrix24.com/rest/one/{SECRET}/", "path"),
        (f"https://a.bitrix24.com/rest/1/{SECRET}/x/y", "path"),
        (f"https://a.bitrix24.com/rest/1/{SECRET}/../2/", "path"),
        (f"https://a.bitrix24.com/sub/rest/1/{SECRET}/", "path"),
        (f"https://a.bitrix24.com/rest/1/{SECRET}/?auth=1", "query"),
        (f"https://a.bitrix24.com/rest/1/{SECRET}/#top", "query or a fragment"),
        (f"https://user:{SECRET}@a.bitrix24.com/rest/1/{SECRET}/", "user name"),
        (f"https:///rest/1/{SECRET}/", "no host"),
        (f"https://a.bitrix24.com:port{SECRET}/rest/1/{SECRET}/", "port"),
        (f"https://[{SECRET}/rest/1/{SECRET}/", "not a URL"),
        (f"https://a.bitrix24.com/rest/1/{SECRET}\n/x", "white space"),
        (f"https://a.bitrix24.com /rest/1/{SECRET}/", "white space"),
    ],
)
def test_what_is_no_webhook_is_refused_without_repeating_it(url: str, problem: str) -> None:
    """The message names the setting, the problem and what is expected, and no secret."""
    with pytest.raises(SettingsError, match=problem) as caught:
        parse_webhook(url)

    assert caught.value.setting == "webhook_url"
    assert "expected https://HOST/rest/USER_ID/CODE/" in caught.value.problem
    assert SECRET not in shown(caught.value)


def test_clear_text_on_loopback_can_be_forbidden() -> None:
    """The exception for emulators on the same machine is the caller's to give."""
    with pytest.raises(SettingsError, match="begin with https://"):
        parse_webhook(f"http://localhost/rest/1/{SECRET}/", allow_insecure_loopback=False)


def test_a_webhook_does_not_show_its_path() -> None:
    """Printing a webhook gives its host only."""
    printed = repr(parse_webhook(f"https://a.bitrix24.com/rest/1/{SECRET}/"))

    assert printed == "Webhook(base_url='https://a.bitrix24.com')"


def test_a_webhook_is_joined_with_the_address_of_today() -> None:
    """A portal that moved keeps its secret."""
    credential = credential_for("https://new.example/", f"rest/1/{SECRET}/", AuthKind.WEBHOOK)

    assert credential == Credential(base_url=f"https://new.example/rest/1/{SECRET}/")


def test_a_token_is_joined_with_the_rest_address() -> None:
    """OAuth calls one address for all users, and says who it is by token."""
    credential = credential_for("https://a.bitrix24.com", SECRET, AuthKind.OAUTH)

    assert credential == Credential(base_url="https://a.bitrix24.com/rest/", token=SECRET)


@pytest.mark.parametrize("base_url", ["http://new.example", "https://", "https://u:p@new.example"])
def test_a_secret_is_not_joined_with_an_address_that_is_not_safe(base_url: str) -> None:
    """Wherever a portal says that it moved, a secret goes out encrypted or not at all."""
    with pytest.raises(SettingsError) as caught:
        credential_for(base_url, SECRET, AuthKind.WEBHOOK)

    assert caught.value.setting == "base_url"
    assert SECRET not in shown(caught.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (f"https://a.bitrix24.com/rest/1/{SECRET}/", "https://a.bitrix24.com/rest/1/…/"),
        (f"https://a.bitrix24.com/rest/1/{SECRET}/batch?x=1", "https://a.bitrix24.com/rest/1/…/"),
        (f"https://u:{SECRET}@a.bitrix24.com/rest/1/x", "https://a.bitrix24.com/rest/1/…/"),
        (f"https://a.bitrix24.com/{SECRET}", "https://a.bitrix24.com/…/"),
        (f"https://[{SECRET}", "…"),
        (SECRET, "…"),
    ],
)
def test_a_masked_address_shows_where_and_never_what(url: str, expected: str) -> None:
    """The host and the user's number may be seen; all after them is a secret."""
    assert masked(url) == expected


def test_what_was_encrypted_is_read_back() -> None:
    """A stored secret does not show, and opens with its key."""
    keyring = Keyring.from_keys([NEW])

    stored = keyring.encrypt(f"rest/1/{SECRET}/ Ж")

    assert SECRET not in stored
    assert stored.isascii()
    assert keyring.decrypt(stored) == f"rest/1/{SECRET}/ Ж"


def test_a_new_key_goes_first_and_the_old_one_still_opens() -> None:
    """Keys are rotated by adding the new one in front."""
    stored = Keyring.from_keys([OLD]).encrypt(SECRET)
    rotated = Keyring.from_keys([NEW, OLD])

    again = rotated.encrypt(rotated.decrypt(stored))

    assert (rotated.is_current(stored), rotated.is_current(again)) == (False, True)
    assert Keyring.from_keys([NEW]).decrypt(again) == SECRET


@pytest.mark.parametrize("damage", ["", "x", "not:a token", "ж:ж"])
def test_a_stored_secret_that_no_key_opens_is_reported(damage: str) -> None:
    """What is not a stored secret is refused like one of another key."""
    with pytest.raises(CredentialError, match="store the portal's credential again"):
        Keyring.from_keys([NEW]).decrypt(damage)


def test_a_missing_key_is_named_by_its_fingerprint() -> None:
    """The message says which key would be needed and which there are, by fingerprint."""
    stored = Keyring.from_keys([OLD]).encrypt(SECRET)

    with pytest.raises(CredentialError) as caught:
        Keyring.from_keys([NEW]).decrypt(stored)

    message = shown(caught.value)
    assert f"with key {key_id(OLD)}" in message
    assert f"at hand are {key_id(NEW)}" in message
    assert not any(hidden in message for hidden in (SECRET, OLD, NEW, stored))


def test_without_a_key_nothing_is_stored_or_read() -> None:
    """A keyring may be empty until a credential has to be stored or read."""
    keyring = Keyring.from_keys([])

    with pytest.raises(CredentialError, match="secret_key is not set"):
        keyring.encrypt(SECRET)
    with pytest.raises(CredentialError, match="secret_key is not set"):
        keyring.decrypt("anything")
    assert keyring.key_ids == ()


@pytest.mark.parametrize("malformed", ["", "short", NEW[:-5], "ж" * 44, "!" * 44])
def test_a_malformed_key_is_refused_by_its_position(malformed: str) -> None:
    """The message names the setting and which of its keys is meant, not the key."""
    with pytest.raises(SettingsError, match="key 2 is not a key") as caught:
        Keyring.from_keys([NEW, malformed])

    assert caught.value.setting == "secret_key"
    assert NEW not in shown(caught.value)
    assert not malformed or malformed not in shown(caught.value)


def test_a_new_key_is_fit_for_use() -> None:
    """Keys are made here as they are taken here, each another."""
    first, second = new_key(), new_key()

    keyring = Keyring.from_keys([f" {first}\n", second])

    assert keyring.decrypt(keyring.encrypt(SECRET)) == SECRET
    assert keyring.key_ids == (key_id(first), key_id(second))
    assert first != second


def test_a_keyring_shows_fingerprints_only() -> None:
    """Printing a keyring gives what it takes to tell keys apart."""
    printed = repr(Keyring.from_keys([NEW, OLD]))

    assert printed == "Keyring(key_ids=('cb2bbdd5', '5d81c9d2'))"
