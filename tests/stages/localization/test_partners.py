"""stages/localization/partners.py: equal labels first, then one label; the same for all processes."""

from __future__ import annotations

from stages.localization.partners import partners_of

LABELS = {"a": (1,), "b": (1,), "c": (1,), "d": (1, 2), "e": (2,), "f": (), "g": (3,)}


class Labels:
    def tags(self, image_id):
        return LABELS[image_id]


def test_partners_have_equal_labels_or_share_one():
    found = partners_of(Labels(), sorted(LABELS), 2)
    assert {one: set(found[one]) for one in "abc"} == {"a": {"b", "c"}, "b": {"a", "c"}, "c": {"a", "b"}}
    assert found["d"][0] != found["d"][1]
    assert set(found["d"]) <= {"a", "b", "c", "e"}
    assert found["e"] == ["d", "e"]  # one alone shares its label: the group repeats itself
    assert found["f"] == ["f", "f"]
    assert found["g"] == ["g", "g"]
    assert partners_of(Labels(), sorted(LABELS), 2) == found
