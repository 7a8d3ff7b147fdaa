"""NIP-06: the same words give the same key as everywhere else, and show themselves nowhere."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mnemonic import Mnemonic

from swarmc.nostr.nip06 import MAX_ACCOUNT, Seed, account_of

VECTORS = [
    (
        "leader monkey parrot ring guide accident before fence cannon height naive bean",
        "nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp",
        "17162c921dc4d2518f9a101db33695df1afb56ab82f5ff3e5da6eec3ca5cd917",
        "npub1zutzeysacnf9rru6zqwmxd54mud0k44tst6l70ja5mhv8jjumytsd2x7nu",
    ),
    (
        (
            "what bleak badge arrange retreat wolf trade produce cricket blur garlic valid proud "
            "rude strong choose busy staff weather area salt hollow arm fade"
        ),
        "nsec1c9wh8xy5eqdzln7n5t0ctgxjcrdug73gp5yj0x03gntn67h83twssdfhel",
        "d41b22899549e1f3d335a31002cfd382174006e166d3e658e3a5eecdb6463573",
        "npub16sdj9zv4f8sl85e45vgq9n7nsgt5qphpvmf7vk8r5hhvmdjxx4es8rq74h",
    ),
]
WORDS = VECTORS[0][0]


@pytest.mark.attack("E1", "D17")
@pytest.mark.parametrize(("words", "nsec", "pubkey", "npub"), VECTORS)
def test_the_official_words_give_the_official_keys(words: str, nsec: str, pubkey: str, npub: str) -> None:
    key = Seed(words).key()
    assert (key.nsec(), key.pubkey, key.npub) == (nsec, pubkey, npub)


@pytest.mark.parametrize(
    "typed",
    [
        WORDS.upper(),
        f"  {WORDS}\n",
        WORDS.replace(" ", "  \t"),
        WORDS.replace(" ", "\u3000"),  # the blank of Japanese seeds
        "".join(chr(ord(letter) + 0xFEE0) if letter != " " else letter for letter in WORDS),  # full-width letters
    ],
)
def test_how_words_are_typed_does_not_matter(typed: str) -> None:
    assert Seed(typed) == Seed(WORDS)
    assert Seed(typed).words == WORDS


@given(st.sampled_from([128, 160, 192, 224, 256]), st.data())
def test_every_seed_of_the_standard_is_read(bits: int, data: st.DataObject) -> None:
    entropy = data.draw(st.binary(min_size=bits // 8, max_size=bits // 8))
    words = Mnemonic("english").to_mnemonic(entropy)
    assert Seed(words).words == words


@pytest.mark.parametrize("count", [12, 24])
def test_new_seeds_have_as_many_words_as_asked_and_are_all_different(count: int) -> None:
    seeds = [Seed.generate(count) for _ in range(4)]
    assert {len(seed.words.split()) for seed in seeds} == {count}
    assert len({seed.key().pubkey for seed in seeds}) == 4
    assert Seed(seeds[0].words) == seeds[0]


def test_a_passphrase_and_an_account_each_give_another_identity() -> None:
    seeds = [Seed(WORDS), Seed(WORDS, passphrase="x"), Seed(WORDS, account=1), Seed(WORDS, account=MAX_ACCOUNT)]
    assert len({seed.key().pubkey for seed in seeds}) == len(set(seeds)) == 4
    assert seeds[3].path == "m/44'/1237'/2147483647'/0/0"


def test_a_passphrase_is_the_same_in_every_unicode_form() -> None:
    composed, decomposed = Seed(WORDS, passphrase="caf\u00e9"), Seed(WORDS, passphrase="cafe\u0301")
    assert composed.key() == decomposed.key()


@pytest.mark.parametrize(
    ("domain", "account"),
    [("work", 1282789828), (" Work\n", 1282789828), ("prod", 991779065), ("", 0), (" ", 0), ("Default", 0)],
)
def test_a_domain_names_the_account_that_openagents_gives_it(domain: str, account: int) -> None:
    assert account_of(domain) == account


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_every_domain_is_an_account(domain: str) -> None:
    Seed(WORDS, account=account_of(domain))


@pytest.mark.attack("E4")
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("", "this text has 0"),
        (WORDS.rpartition(" ")[0], "this text has 11"),
        (WORDS.replace("parrot", "parot"), "word 3 of 12 is not in the English BIP-39 list"),
        (WORDS.replace("monkey", "parrot", 1), "checksum"),
        (WORDS.replace("leader monkey", "monkey leader"), "checksum"),
        (WORDS.replace("bean", "bean\ud800"), "word 12 of 12"),
        ("nsec10allq0gjx7fddtzef0ax00mdps9t2kmtrldkyjfs8l5xruwvh2dq0lhhkp", "this text has 1"),
        (f"{WORDS} " * 50, "at most 1000 characters"),
    ],
)
def test_what_is_no_seed_is_refused_and_not_repeated(words: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        Seed(words)
    assert caught.value.__cause__ is None
    for word in ("leader", "parrot", "parot", "nsec1", "bean"):
        assert word not in str(caught.value)


@pytest.mark.parametrize("account", [-1, MAX_ACCOUNT + 1])
def test_an_account_out_of_bounds_is_refused(account: int) -> None:
    with pytest.raises(ValueError, match="an account is a number from 0 to 2147483647"):
        Seed(WORDS, account=account)


def test_a_passphrase_that_is_no_text_is_refused_and_not_repeated() -> None:
    with pytest.raises(ValueError, match="not valid text") as caught:
        Seed(WORDS, passphrase="hunter2\udcff")
    assert "hunter2" not in str(caught.value)


def test_another_count_of_new_words_is_refused() -> None:
    with pytest.raises(ValueError, match="12 or 24 words, not 15"):
        Seed.generate(15)  # pyright: ignore[reportArgumentType]


@pytest.mark.attack("E4")
def test_a_seed_shows_its_place_and_nothing_secret() -> None:
    seed = Seed(WORDS, passphrase="hunter2", account=3)
    assert repr(seed) == str(seed) == "Seed(12 words, m/44'/1237'/3'/0/0)"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(seed)
