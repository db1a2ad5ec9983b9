"""The page of faults is what the tests make."""

from tools.generate.doctor_faults import PAGE, PLACES, ROOT, faults_of, render


def test_the_page_is_what_the_tests_make() -> None:
    assert PAGE.read_text() == render(), "run: make generate"


def test_each_place_makes_many() -> None:
    counts = [sum(1 for file in files for _ in faults_of(ROOT / file)) for files in PLACES.values()]
    assert all(count >= 10 for count in counts), counts
