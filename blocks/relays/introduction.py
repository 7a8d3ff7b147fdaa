"""NIP-42 on one connection: tell the relay who we are when it asks, a bounded number of times."""

import asyncio
import time
from collections.abc import Callable

from swarmc.nostr.events import sign_note
from swarmc.nostr.keys import SecretKey
from swarmc.nostr.messages import RelayMessage
from swarmc.nostr.nip42 import auth_message, auth_note

MOST_CHALLENGES = 10
"""That are answered on one connection: each costs a signature."""

UNCONFIRMED_S = 1.0
"""Some relays answer no AUTH; after so long what waits for it is tried."""


class Introduction:
    """Of us to one relay.

    Args:
        url: Exactly as it was dialled, which is what we sign.
        key: Who we are; without it no challenge is answered.
        say: Sends a message.
        done: Told the refusal, or nothing when the relay knows us, or says nothing to it.
    """

    def __init__(
        self, url: str, key: SecretKey | None, say: Callable[[str], bool], done: Callable[[str], None]
    ) -> None:
        self._url = url
        self._key = key
        self._say = say
        self._done = done
        self._event_id = ""
        self._challenges = 0
        self._over = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def ahead(self) -> bool:
        """Whether to wait for it makes sense: we have a key, and the relay has not answered to it."""
        return self._key is not None and not self._over

    @property
    def possible(self) -> bool:
        return self._key is not None

    def reset(self) -> None:
        """Another connection: whatever was said on the last one counts no more."""
        self._stop_timer()
        self._event_id, self._challenges, self._over = "", 0, False

    def challenged(self, challenge: str) -> None:
        """Answer the newest challenge; only its answer counts from now on."""
        if self._key is None or self._challenges >= MOST_CHALLENGES:
            return
        self._challenges += 1
        try:
            event = sign_note(auth_note(self._url, challenge, int(time.time())), self._key)
        except ValueError:  # No challenge that can be signed.
            return
        self._event_id, self._over = event.id, False
        self._say(auth_message(event))
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(UNCONFIRMED_S, self._end, "")

    def hear(self, message: RelayMessage) -> bool:
        """Whether this `OK` answers our introduction."""
        if not self._event_id or message.subject != self._event_id:
            return False
        self._end("" if message.agreed else f"auth-required: it does not want us: {message.text}")
        return True

    def _end(self, refusal: str) -> None:
        self._stop_timer()
        self._over = True
        self._done(refusal)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
