"""Which provider gets a job."""

from hypothesis import given
from hypothesis import strategies as st

from swarmc.contracts.job_book import Standing
from swarmc.contracts.market import Ask, JobInput, Offer, PriceList
from swarmc.nostr.choosing import Track, Wanted, choose

ASK = Ask(inputs=(JobInput(data="hi"),))
WANTED = Wanted(ask=ASK, bid_msats=1000, network="regtest", model="toy")


def offer(letter: str, price: int | None = 100, **fields: object) -> Offer:
    prices = None if price is None else PriceList(request_msats=price)
    given_fields = {"models": ("toy",), "network": "regtest", "simulated": True, "kinds": (5050,), **fields}
    return Offer.model_validate(
        {"event_id": letter * 64, "provider": letter * 64, "name_d": "x", "created_at": 1, "prices": prices}
        | given_fields
    )


def order(offers: list[Offer], tracks: dict[str, Track] | None = None, wanted: Wanted = WANTED) -> str:
    return "".join(one.provider[0] for one in choose(offers, wanted, tracks or {}, 0.0).offers)


def test_the_cheapest_comes_first() -> None:
    assert order([offer("a", 300), offer("b", 100), offer("c", 200)]) == "bca"


def test_an_offer_above_the_bid_is_left_out_and_says_why() -> None:
    chosen = choose([offer("a", 1001)], WANTED, {}, 0.0)
    assert chosen.offers == ()
    assert "1001 msats, above the bid of 1000" in chosen.others["a" * 64]


def test_an_offer_without_a_price_counts_as_dear_as_the_bid() -> None:
    assert order([offer("a", None), offer("b", 999)]) == "ba"


def test_prices_by_token_count() -> None:
    ask = Ask(inputs=(JobInput(data="x" * 4000),), params=(("max_tokens", "100"),))
    wanted = WANTED.model_copy(update={"ask": ask})
    by_token = PriceList(input_msats_per_1k_tokens=500, output_msats_per_1k_tokens=1)
    assert by_token.price_msats(1000, 100) == 501
    assert order([offer("a", 600), offer("b", None, prices=by_token)], wanted=wanted) == "ba"


def test_another_model_money_kind_or_cipher_does_not_fit() -> None:
    misfits = [
        offer("a", models=("other",)),
        offer("b", network="bitcoin"),
        offer("c", kinds=(5100,)),
    ]
    assert order(misfits) == ""
    assert order([offer("d")], wanted=WANTED.model_copy(update={"encryption": "nip44"})) == ""
    assert order([offer("d", encryption=("nip44",))], wanted=WANTED.model_copy(update={"encryption": "nip44"})) == "d"
    assert order([offer("d"), offer("e")], wanted=WANTED.model_copy(update={"only": ("e" * 64,)})) == "e"


def test_who_took_money_and_did_not_deliver_loses_to_a_dearer_one() -> None:
    cheat = Track(standing=Standing(provider="a" * 64, answered=1, failed=6, undelivered=6, jobs=7))
    assert order([offer("a", 100), offer("b", 300)], {"a" * 64: cheat}) == "ba"


def test_a_slow_provider_loses_when_waiting_is_worth_more_than_the_price_it_saves() -> None:
    slow = {"a" * 64: Track(latency_s=10.0), "b" * 64: Track(latency_s=0.1)}
    offers = [offer("a", 100), offer("b", 300)]
    assert order(offers, slow) == "ab"
    assert order(offers, slow, WANTED.model_copy(update={"wait_msats_per_s": 100})) == "ba"


def test_work_is_spread_over_equals() -> None:
    busy = {"a" * 64: Track(in_flight=5), "b" * 64: Track(in_flight=1)}
    assert order([offer("a"), offer("b")], busy, WANTED.model_copy(update={"wait_msats_per_s": 10})) == "ba"


def test_who_answered_the_same_prompt_before_is_asked_last() -> None:
    offers = [offer("a", 100), offer("b", 300), offer("c", 200)]
    wanted = WANTED.model_copy(update={"heard": ("a" * 64, "c" * 64)})
    assert order(offers, wanted=wanted) == "bac"


def test_equals_share_the_work() -> None:
    offers = [offer(letter) for letter in "abcd"]
    firsts = [order(offers, wanted=WANTED.model_copy(update={"lot": f"prompt {n}"}))[0] for n in range(400)]
    assert all(60 < firsts.count(letter) < 140 for letter in "abcd")


def test_a_provider_that_failed_is_left_alone_for_longer_each_time() -> None:
    once = Track().failed(100.0, 5.0)
    twice = once.failed(105.0, 5.0)
    assert (once.avoided_until_s, twice.avoided_until_s) == (105.0, 115.0)
    assert choose([offer("a")], WANTED, {"a" * 64: once}, 104.0).offers == ()
    assert choose([offer("a")], WANTED, {"a" * 64: once}, 105.0).offers != ()
    assert twice.answered(0.2).failures == 0


@given(
    st.lists(st.integers(0, 1200), min_size=1, max_size=8),
    st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50)), min_size=8, max_size=8),
)
def test_nobody_above_the_bid_is_ever_chosen_and_the_order_does_not_depend_on_arrival(
    prices: list[int], done: list[tuple[float, float]]
) -> None:
    offers = [offer("0123456789abcdef"[place], price) for place, price in enumerate(prices)]
    tracks = {
        one.provider: Track(
            standing=Standing(provider=one.provider, answered=answered, failed=failed, undelivered=0, jobs=9)
        )
        for one, (answered, failed) in zip(offers, done, strict=False)
    }
    chosen = choose(offers, WANTED, tracks, 0.0)
    assert chosen == choose(offers[::-1], WANTED, tracks, 0.0)
    assert len(chosen.offers) + len(chosen.others) == len(offers)
    assert all(one.prices and one.prices.request_msats <= 1000 for one in chosen.offers)
