"""What people see of a name. Which names an object may have is said by its command."""

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
    composed = unicodedata.normalize("NFC", _UNSEEN.sub("\ufffd", name))
    return "".join(each if each.isprintable() else "\ufffd" for each in composed)
