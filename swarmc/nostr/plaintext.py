"""Text to bytes and back, for what is encrypted: no error here holds, or is chained to, what it could not read."""

import binascii


def utf8(text: str) -> bytes:
    """The bytes of a text that is to be encrypted.

    Raises:
        ValueError: it holds half a character (a lone surrogate).
    """
    try:
        return text.encode()
    except UnicodeEncodeError:
        pass  # Python's error holds the text, and an error raised in here would hold Python's.
    raise ValueError("a text to encrypt holds half a character (a lone surrogate)")


def text_of(data: bytes) -> str:
    """The text of decrypted bytes.

    Raises:
        ValueError: they are no UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        pass
    raise ValueError("what was decrypted is no UTF-8 text: another key, or another form of encryption")


def base64_bytes(text: str) -> bytes:
    """The bytes of strict base64 with padding.

    Raises:
        ValueError: it is none.
    """
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise ValueError("an encrypted text is no base64") from None


def base64_text(data: bytes) -> str:
    """Base64 with padding, on one line."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")
