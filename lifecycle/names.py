"""Names, as people tell objects by them, and text as a terminal shows it. What else a name may have
is in `commands`."""

import re
import unicodedata

# Those of which nothing is seen though they count as printable: Unicode has others wait for them to
# change what is before them, or fill blanks with them.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def seen(name: str) -> str:
    """The name as everybody sees it: composed (NFC), with U+FFFD for each character that shows
    nothing, changes the direction, or is a space of another kind."""
    if name.isascii() and name.isprintable():
        return name
    composed = unicodedata.normalize("NFC", _UNSEEN.sub("\ufffd", name))
    return "".join(each if each.isprintable() else "\ufffd" for each in composed)


def printable(text: str) -> str:
    """The text for a terminal: what would command it instead of being shown (escape sequences, in
    C1 control characters too, and what changes the direction) is written as Python writes it."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in "\n\t" else each.encode("unicode_escape").decode()
        for each in text
    )
