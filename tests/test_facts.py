"""What is read of files that anybody may have written."""

import json

import pytest

from hub_utils.portable.facts import Estimate, estimate, read_facts, told


@pytest.mark.parametrize("text", ["", "{", "[1]", "null", '"x"', "[" * 100_000, '{"a":' * 100_000, "\ud83d", '{"a": 1'])
def test_a_file_that_holds_no_object_says_nothing(tmp_path, text):
    (tmp_path / "facts.json").write_text(text, encoding="utf-8", errors="replace")
    assert read_facts(tmp_path / "facts.json") == {}
    assert read_facts(tmp_path / "missing.json") == {}


def test_what_stands_there_counts_only_in_its_own_type():
    facts = json.loads('{"a": {"b": "x", "n": 3, "t": true, "f": 0.5, "i": Infinity, "nan": NaN, "l": [1]}}')
    facts["a"]["huge"] = 10**400
    assert told(facts, "a", "b", of=str) == "x" and told(facts, "a", of=dict) == facts["a"]
    assert told(facts, "a", "n", of=float) == 3.0 and told(facts, "a", "n", of=int) == 3
    assert told(facts, "a", "f", of=float) == 0.5 and told(facts, "a", "l", of=list) == [1]
    assert told(facts, "a", "t", of=bool) is True
    for key, kind in (("n", str), ("t", int), ("t", float), ("i", float), ("nan", float), ("huge", float), ("f", int)):
        assert told(facts, "a", key, of=kind) is None
    for broken in (None, [], "x", 5, {"a": None}, {"a": [1]}):
        assert told(broken, "a", "b", of=str) is None


def test_an_estimate_is_a_share_with_its_interval_or_without():
    assert estimate({"m": {"value": 0.9, "interval": [0.8, 0.95]}}, "m") == Estimate(0.9, (0.8, 0.95))
    assert estimate({"m": {"value": 1, "interval": None}}, "m") == estimate({"m": 1}, "m") == Estimate(1.0)
    for interval in (["a", "b"], [0.8], [None, None], "x", [0.9, 0.8], [-1, 2], 5):
        assert estimate({"m": {"value": 0.9, "interval": interval}}, "m") == Estimate(0.9)
    for other in (None, [], "0.9", {"value": None, "interval": None, "reason": "x"}, {"value": 90}, True, {}):
        assert estimate({"m": other}, "m") is None
