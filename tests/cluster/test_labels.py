"""Cache labels tell users apart, and tell nobody who they are."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llambo9p.cluster.labels import Labels
from llambo9p.conversation.settings import SETTINGS

NAMES = st.tuples(st.text(max_size=12), st.text(max_size=12))
[SETTING] = [setting for setting in SETTINGS if setting.name == "cache_label"]


@given(NAMES, NAMES, st.binary(min_size=32, max_size=32))
def test_users_and_labels_are_told_apart(
    one: tuple[str, str], other: tuple[str, str], key: bytes
) -> None:
    labels = Labels(key)
    assert (labels.of(*one) == labels.of(*other)) == (one == other)
    assert labels.of(*one) == Labels(key).of(*one)


@given(NAMES)
def test_who_has_not_the_key_cannot_guess(name: tuple[str, str]) -> None:
    assert Labels().of(*name) != Labels().of(*name)


@given(NAMES)
def test_a_label_is_a_setting_and_shows_nothing_of_the_user(name: tuple[str, str]) -> None:
    label = Labels(bytes(32)).of(*name)
    assert SETTING.read([label]) == label
    assert set(label) <= set("0123456789abcdef") and len(label) == 32
