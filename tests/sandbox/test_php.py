"""PHP's way with query strings and arrays."""

from typing import Any

import pytest

from b24sync.sandbox.php import parse_query, php_array
from b24sync.sandbox.values import Value


@pytest.mark.parametrize(
    ("query", "tree"),
    [
        pytest.param("", {}, id="nothing"),
        pytest.param("a=1&b=2", {"a": "1", "b": "2"}, id="scalars"),
        pytest.param("a=1&a=2", {"a": "2"}, id="later wins"),
        pytest.param("a", {"a": ""}, id="no equals sign"),
        pytest.param("=1&a=2", {"a": "2"}, id="no name"),
        pytest.param("a=1&", {"a": "1"}, id="trailing ampersand"),
        pytest.param("a=1=2", {"a": "1=2"}, id="second equals sign"),
        pytest.param("a=b+c%20d%2Be", {"a": "b c d+e"}, id="plus and percent"),
        pytest.param("a=%D0%98%D0%BC%D1%8F", {"a": "Имя"}, id="UTF-8"),
        pytest.param("a=%FF", {"a": "\ufffd"}, id="no UTF-8"),
        pytest.param("a=50%", {"a": "50%"}, id="lone percent"),
        pytest.param("f[A]=1&f[B]=2", {"f": {"A": "1", "B": "2"}}, id="object"),
        pytest.param("f%5BA%5D=1", {"f": {"A": "1"}}, id="escaped brackets"),
        pytest.param("k[]=a&k[]=b", {"k": ["a", "b"]}, id="appended"),
        pytest.param("k[]=", {"k": [""]}, id="empty list"),
        pytest.param("k[0]=a&k[1]=b", {"k": ["a", "b"]}, id="list"),
        pytest.param("k[1]=b&k[0]=a", {"k": {"1": "b", "0": "a"}}, id="list out of order"),
        pytest.param("k[5]=a&k[]=b", {"k": {"5": "a", "6": "b"}}, id="appended after a hole"),
        pytest.param("k[01]=a&k[]=b", {"k": {"01": "a", "0": "b"}}, id="01 is no index"),
        pytest.param(
            "f[P][0][V]=1&f[P][0][T]=W&f[P][1][V]=2",
            {"f": {"P": [{"V": "1", "T": "W"}, {"V": "2"}]}},
            id="list of objects",
        ),
        pytest.param("a=1&a[b]=2", {"a": {"b": "2"}}, id="array replaces scalar"),
        pytest.param("a[b]=1&a=2", {"a": "2"}, id="scalar replaces array"),
        pytest.param("a.b c=1", {"a_b_c": "1"}, id="dots and spaces of names"),
        pytest.param("f[a.b c]=1", {"f": {"a.b c": "1"}}, id="but not of keys"),
        pytest.param("a[b=1", {"a_b": "1"}, id="bracket that never closes"),
        pytest.param("a[b]c=1", {"a": {"b": "1"}}, id="text after the bracket"),
        pytest.param("[a]=1&b=2", {"b": "2"}, id="name without a head"),
        pytest.param("+a=1", {"a": "1"}, id="leading space"),
        pytest.param("filter[%3EID]=5", {"filter": {">ID": "5"}}, id="operator in a key"),
        pytest.param("ID=$result[c0][item]", {"ID": "$result[c0][item]"}, id="bare reference"),
    ],
)
def test_a_query_is_read_as_php_reads_it(query: str, tree: dict[str, Any]) -> None:
    """Names build arrays bracket by bracket; values are decoded once."""
    assert parse_query(query) == tree


def test_variables_beyond_the_limit_are_dropped() -> None:
    """PHP reads a limited number of variables and says nothing of the rest."""
    assert parse_query("a=1&b=2&c=3", limit=2) == {"a": "1", "b": "2"}


@pytest.mark.parametrize(
    ("array", "written"),
    [
        pytest.param({}, [], id="empty"),
        pytest.param({"0": 1, "1": 2}, [1, 2], id="0..n-1"),
        pytest.param({"1": 1, "0": 2}, {"1": 1, "0": 2}, id="wrong order"),
        pytest.param({"0": 1, "2": 2}, {"0": 1, "2": 2}, id="hole"),
        pytest.param({"a": {"0": {}}}, {"a": [[]]}, id="nested"),
        pytest.param([{"x": {}}], [{"x": []}], id="inside a list"),
    ],
)
def test_an_array_is_a_list_only_if_its_keys_count_up(array: Value, written: object) -> None:
    """Keys 0..n-1 in order make a JSON list, an empty array too, anything else an object."""
    assert php_array(array) == written
