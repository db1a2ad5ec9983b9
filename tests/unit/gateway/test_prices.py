"""What desktops and homes cost, and files that cannot be used."""

import pytest

from vdi.gateway.prices import Prices, PricesError, read_prices


def test_prices_come_from_a_file() -> None:
    text = "{currency: EUR, gpuHour: 1, cpuHour: 0.5, memoryGiBHour: 0.1, homeGiBMonth: 2, templates: {cad: 4}}"
    prices = read_prices(text, "prices.yaml")
    assert prices == Prices("EUR", 1.0, 0.5, 0.1, 2.0, {"cad": 4.0}) and prices.is_set
    assert prices.desktop_hour("other", gpus=2, cpu=4, memory_gib=10) == 5.0
    assert (prices.desktop_hour("cad", gpus=2, cpu=4, memory_gib=10), prices.gpu_part("cad", 2)) == (4.0, 4.0)
    assert (prices.gpu_part("other", 2), prices.gpu_part("cad", 0)) == (2.0, 0.0)


@pytest.mark.parametrize("text", ["", "{}", "currency: EUR", "{currency: EUR, gpuHour: 0}"])
def test_without_a_price_there_is_no_cost(text: str) -> None:
    assert not read_prices(text, "f").is_set


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gpuHour: 1", "currency: it is not set, but there are prices; allowed: a text such as EUR"),
        ("{currency: EUR, gpuHour: -1}", "gpuHour: -1.0 is not allowed; allowed: 0 or more"),
        ("{currency: EUR, templates: {cad: .inf}}", "templates.cad: inf is not allowed"),
        ("{currency: EUR, gpu: 1}", "gpu"),
        ("{currency: [EUR]}", "currency"),
        (f"currency: {'E' * 17}", "at most 16 characters"),
        ("a: [", "prices.yaml"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_words(text: str, words: str) -> None:
    with pytest.raises(PricesError) as error:
        read_prices(text, "prices.yaml")
    assert "prices.yaml" in str(error.value)
    assert words in str(error.value)
