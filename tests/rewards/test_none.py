from longthink.rewards.none import Nothing


def test_every_response_is_worth_nothing_whatever_the_gold() -> None:
    for response, gold in (("", None), ("7", "7"), ("</think> \\boxed{7}", {"numbers": []})):
        verdict = Nothing().grade(response, gold)
        assert (verdict.score, verdict.status) == (0.0, "ok")
