"""NIP-06: Nostr keys from seed words, so that a sheet of paper brings an identity back.

    words (BIP-39) + passphrase -> seed -> m/44'/1237'/<account>'/0/0 (BIP-32) -> secret key

One set of words holds many identities: an account is a number, or is named by a domain.
"""

import hashlib
import unicodedata
from functools import cache
from typing import Literal, NoReturn, final

from bip32 import BIP32
from mnemonic import Mnemonic

from swarmc.nostr.keys import SecretKey

WORD_COUNTS = (12, 15, 18, 21, 24)
"""How many words BIP-39 allows. New seeds have 12 or 24; the others are read."""
MAX_ACCOUNT = 2**31 - 1
MAX_TEXT = 1_000
"""Characters of words or of a passphrase: far above any real one."""
_ENTROPY_BITS = {12: 128, 24: 256}
_DOMAIN_PREFIX = "openagents.seed.v1:"


@final
class Seed:
    """Words, passphrase and account: all that a NIP-06 key is made from.

    Its text forms say only which account it is; the properties are the one way to see the rest.
    """

    __slots__ = ("_account", "_passphrase", "_words")

    def __init__(self, words: str, *, passphrase: str = "", account: int = 0) -> None:
        """Take what a person typed: case, blanks and Unicode forms of the words do not matter.

        Args:
            words: 12, 15, 18, 21 or 24 words of the English BIP-39 list.
            passphrase: What BIP-39 adds to the words. Another one gives another identity, never an error.
            account: 0 to 2**31 - 1, see `account_of`.

        Raises:
            ValueError: the words are no seed, or another value is out of its bounds. Nothing secret is repeated.
        """
        if not 0 <= account <= MAX_ACCOUNT:
            raise ValueError(f"an account is a number from 0 to {MAX_ACCOUNT}; {account} is not")
        self._words = _checked(words)
        self._passphrase = _encodable(passphrase)
        self._account = account

    @classmethod
    def generate(cls, count: Literal[12, 24] = 12, *, account: int = 0) -> "Seed":
        """A new one from the system's randomness: 12 words hold 128 bits, 24 hold 256.

        Raises:
            ValueError: another count.
        """
        bits = _ENTROPY_BITS.get(count)
        if bits is None:
            raise ValueError(f"a new seed has 12 or 24 words, not {count}")
        return cls(_english().generate(bits), account=account)

    @property
    def words(self) -> str:
        """The words, lower case, one blank between: for the person who keeps them, never for a log."""
        return self._words

    @property
    def passphrase(self) -> str:
        """As secret as the words."""
        return self._passphrase

    @property
    def account(self) -> int:
        return self._account

    @property
    def path(self) -> str:
        """Where in the tree of keys this identity is."""
        return f"m/44'/1237'/{self._account}'/0/0"

    def key(self) -> SecretKey:
        """The secret key. Takes milliseconds: keep it."""
        tree = BIP32.from_seed(Mnemonic.to_seed(self._words, self._passphrase))
        return SecretKey(tree.get_privkey_from_path(self.path))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seed) and self._parts() == other._parts()

    def __hash__(self) -> int:
        return hash(self._parts())

    def _parts(self) -> tuple[str, str, int]:
        return self._words, self._passphrase, self._account

    def __repr__(self) -> str:
        return f"Seed({len(self._words.split())} words, {self.path})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("seed words are not pickled: they would lie about in plain text")


def account_of(domain: str) -> int:
    """The account that a domain names, so that e.g. `work` and `prod` are two identities of the same words.

    Args:
        domain: Any text; case and blanks around it do not matter. Empty and `default` are account 0.
    """
    name = domain.strip().lower()
    if name in ("", "default"):
        return 0
    digest = hashlib.sha256(_encodable(_DOMAIN_PREFIX + name).encode()).digest()
    return max(int.from_bytes(digest[:4], "big") & MAX_ACCOUNT, 1)


def _checked(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise ValueError(f"seed words are at most {MAX_TEXT} characters; this text has {len(text)}")
    words = unicodedata.normalize("NFKD", text).lower().split()
    if len(words) not in WORD_COUNTS:
        raise ValueError(f"a seed has 12 or 24 words (or 15, 18, 21); this text has {len(words)}")
    known = set(_english().wordlist)
    for place, word in enumerate(words, 1):
        if word not in known:
            raise ValueError(f"word {place} of {len(words)} is not in the English BIP-39 list; look for a slip in it")
    found = " ".join(words)
    if not _english().check(found):
        raise ValueError("the checksum of the seed words does not hold: a word is another, or two changed places")
    return found


def _encodable(text: str) -> str:
    if len(text) > MAX_TEXT:
        raise ValueError(f"a passphrase or domain is at most {MAX_TEXT} characters; this one has {len(text)}")
    # Python's own error would carry the whole text.
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ValueError("a passphrase or domain is not valid text: it holds half of a character")
    return text


@cache
def _english() -> Mnemonic:
    return Mnemonic("english")
