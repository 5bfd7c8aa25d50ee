"""Escapes names from files, so that a terminal shows them and does not obey them."""

import logging
import unicodedata

KEPT = "\n\t"
BIDI = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # turn what follows
PACKAGES = ("randwire_det", "pretrain")


def printable(text: str) -> str:
    """`text` with control characters and lone surrogates written as Python escapes.

    A name in a JSON may contain an escape sequence, which a terminal would obey, or a lone
    surrogate, which no stream can encode. Line ends and tabs are kept.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(each) if _acts(each) else each for each in text)


def one_line(text: str) -> str:
    """`printable` text with line ends and tabs escaped as well."""
    return "".join(_escaped(each) if each in KEPT else each for each in printable(text))


def has_control(text: str) -> bool:
    """Whether a name contains anything that `one_line` escapes."""
    return any(each in KEPT or _acts(each) for each in text)


def escape_log() -> None:
    """Make every record of this project's loggers `printable`, for all handlers."""
    build = logging.getLogRecordFactory()

    def build_printable(name, *args, **kwargs) -> logging.LogRecord:
        record = build(name, *args, **kwargs)
        if name.partition(".")[0] in PACKAGES:
            record.msg, record.args = printable(record.getMessage()), ()
        return record

    logging.setLogRecordFactory(build_printable)


def _acts(character: str) -> bool:
    kind = unicodedata.category(character)
    return (kind in ("Cc", "Cs") and character not in KEPT) or character in BIDI


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
