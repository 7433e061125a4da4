import dataclasses

import pytest

from data_prep.conversion_rule import Rule


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"short_side": 7}, "short_side must be an integer of 8 to 4096. Received: 7"),
        ({"short_side": 4097}, "short_side must be an integer of 8 to 4096. Received: 4097"),
        ({"short_side": 256.0}, "short_side must be an integer of 8 to 4096. Received: 256.0"),
        ({"quality": 0}, "quality must be an integer of 1 to 100. Received: 0"),
        ({"quality": 101}, "quality must be an integer of 1 to 100. Received: 101"),
        ({"crop": "left"}, "crop must be 'center' or 'none'. Received: 'left'"),
        ({"fit": "pad"}, "fit must be 'short_side' or 'warp'. Received: 'pad'"),
        ({"storage": "png"}, "storage must be 'jpeg' or 'raw'. Received: 'png'"),
        ({"truncated": "keep"}, "truncated must be 'reject' or 'accept'. Received: 'keep'"),
        ({"pass_through": "no"}, "pass_through must be False or True. Received: 'no'"),
        ({"storage": "raw", "crop": "none"}, "storage='raw' needs crop='center'"),
        ({"fit": "warp", "crop": "none"}, "fit='warp' needs crop='center'"),
        ({"storage": "raw", "pass_through": True}, "pass_through needs storage='jpeg'"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        Rule(**arguments)


def test_the_rule_is_that_of_2012_unless_asked_for_another():
    assert dataclasses.astuple(Rule()) == (256, "center", "short_side", "jpeg", 95, "reject", False)
