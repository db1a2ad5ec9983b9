from bench.first_picture import verdicts


def test_goals_are_reported_by_the_median() -> None:
    figures = [{"way": "vdi", "picture_s": seconds} for seconds in (3.0, 3.9, 9.0)]
    figures += [{"way": "from a pool", "picture_s": seconds} for seconds in (0.5, 1.0, 1.1)]
    assert [line.split()[0] for line in verdicts(figures)] == ["met", "MISSED"]
