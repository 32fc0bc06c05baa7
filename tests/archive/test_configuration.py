"""What is said where two configurations differ."""

from pullback.archive.configuration import as_json, list_differences


def test_differences_are_named_by_their_place():
    held = {"score": {"k": 5, "seed": 0}, "data": "a.npz", "sizes": [1, 2]}
    wanted = {"score": {"k": 3, "seed": 0, "tol": 0.1}, "data": "a.npz", "sizes": [1]}
    assert list_differences(held, wanted) == [
        "score.k was 5 and is 3",
        "score.tol was absent and is 0.1",
        "sizes was [1, 2] and is [1]",
    ]
    assert list_differences(held, held) == []


def test_a_part_in_place_of_a_value_and_none_are_differences():
    assert list_differences({"a": {"b": 1}}, {"a": None}) == ["a was {'b': 1} and is None"]
    assert list_differences({}, {"a": None}) == ["a was absent and is None"]
    assert list_differences({}, {"a": "absent"}) == ["a was absent and is absent"]


def test_long_values_are_shortened():
    (checksum,) = list_differences({"sha": "0123456789abcdef" * 4}, {"sha": "short"})
    assert checksum == "sha was 0123456789ab… and is short"
    (numbers,) = list_differences({"seeds": list(range(100))}, {"seeds": []})
    assert numbers.endswith("… and is []")
    assert len(numbers) < 110


def test_json_does_not_depend_on_the_order():
    assert as_json({"b": 1, "a": 2}) == as_json({"a": 2, "b": 1}) == '{"a": 2, "b": 1}'
