from longthink.control.non_finite import NonFinite


def test_only_the_last_step_counts():
    skipped, fine = {"step": 1, "learner/non_finite/sum": 2.0}, {"step": 2, "learner/non_finite/sum": 0.0}
    assert NonFinite().fires([fine, skipped]) == {"skipped_updates": 2}
    assert NonFinite(updates=3).fires([fine, skipped]) is None
    assert NonFinite().fires([skipped, fine]) is NonFinite().fires([skipped, {"step": 3}]) is NonFinite().fires([]) is None
