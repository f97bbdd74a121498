"""What an oracle wrote -> proposals, whatever form it wrote them in. Total: a flaw is a name, never an exception.

Read are a JSON object as the prompt's schema has it, `<replacement>[{"location": 3, "content": "..."}]</replacement>`,
`<intervention>{"location": 3, "content": "..."}</intervention>`, and bare or fenced JSON among prose. Of several, the
last one counts: drafts come first. One bad entry does not spoil the others.
"""

from __future__ import annotations

import re
from itertools import islice, pairwise
from typing import Any, Literal

from int_ray.oracles.fences import UNSENDABLE
from int_ray.oracles.loose_json import Unreadable, UnreadableName, loads, strict_json
from int_ray.types import OracleReply, Proposal

MAX_REPLY = 400_000  # characters; about 100,000 tokens, and about a second to read at worst
MAX_ENTRIES = 100

# Why nothing in a reply can be used.
ReplyFailure = (
    UnreadableName
    | Literal[
        "no_error",  # the list is empty, as it should be when the attempt has no critical error
        "no_replacement",  # the list is empty although the reply names an error
        "no_usable_entry",  # every entry was refused; the faults say why
        "empty_reply",  # nothing but white space
        "too_long",  # more than 400,000 characters
        "no_json",  # holds no list and no object
        "not_a_list",  # there is JSON, but it is no list of replacements and no replacement
    ]
)
# Why an entry was refused, or what else is odd.
EntryFault = Literal[
    "broken_entry",  # no JSON
    "duplicate_key",  # a key twice
    "not_an_object",
    "location_missing",  # or null
    "location_not_a_number",  # text, true, a list
    "location_not_whole",  # 2.5
    "location_is_a_range",  # 12-14
    "location_out_of_range",  # 0, negative, or beyond the last step
    "content_missing",  # or null
    "content_not_text",
    "content_empty",  # nothing that shows
    "content_garbled",  # control characters, or half of a surrogate pair
    "too_many_entries",  # all after the first 100 are ignored
    "first_error_unreadable",  # the proposals stand without it
]

# A reply that is nothing but JSON, perhaps in a code fence; the match ends where the JSON begins.
_JSON_ALONE = re.compile(r"\s*+(?:```\w*+\s*+)?+(?=\{|\[\s*+[\]{])")
# JSON among prose: an object of ours, perhaps in a list, or an empty list on its own line. Nothing else will do: the
# prose may quote the attempt, in which these keys were altered.
_OUR_OBJECT = r"""\{\s*+["'](?:location|content|first_error|replacements|verification_log)["']\s*+:"""
_JSON_IN_PROSE = re.compile(rf"(?=\[\s*+{_OUR_OBJECT})|(?={_OUR_OBJECT})|^[ \t]*+(?=\[\s*+\][ \t]*+$)", re.MULTILINE)
_TAG = re.compile("<(/?)(?:replacement|intervention)>", re.IGNORECASE)
_LIST_KEY = re.compile(r"""["']replacements["']\s*+:""")
_ENTRY = re.compile(r"""\{\s*+["'](?:location|content)["']\s*+:""")
_LEAD_IN = re.compile(r"(?:<\w++>\s*+)?(?:```\w*+\s*+)?\Z")  # what stands right before the JSON
_FIRST_ERROR = re.compile(r"<first_error>([^<>]{0,100})</first_error>", re.IGNORECASE)
_BEFORE = r"[\s*_#:()<>\[\]`]*+"
_LOCATION = re.compile(
    rf"{_BEFORE}(?:(?:sub)?step)?{_BEFORE}([-\u2212]?[0-9]++(?:\.[0-9]++)?)[\s*_:.()<>\[\]`]*+", re.IGNORECASE
)
_BRACKET = re.compile(r"[\[{]")


def read_reply(text: str, num_steps: int) -> OracleReply:
    """Proposals for an attempt of `num_steps` steps, or a `ReplyFailure`; `faults` are `EntryFault`s."""
    if not text.strip():
        return OracleReply(failure="empty_reply")
    if len(text) > MAX_REPLY:
        return OracleReply(failure="too_long")
    try:
        place = _find_json(text)
        value = _read_json(text[place])
    except Unreadable as why:
        return OracleReply(failure=why.name, log=_log(text))
    said = value if isinstance(value, dict) else {}
    before = _LEAD_IN.sub("", text[: place.start])
    tagged = _FIRST_ERROR.findall(before)
    first_error = _first_error(said.get("first_error", tagged[-1] if tagged else None), num_steps)
    return _reply(_entries(value), first_error, _log(said.get("verification_log", before) or ""), num_steps)


def _find_json(text: str) -> slice:
    """Where the JSON that counts stands: the last block in tags, or else the last value. Raises Unreadable."""
    alone = _JSON_ALONE.match(text)
    # If the reply is all JSON, then what strings in it hold, quoted tags for instance, is not looked at.
    start = _end(text, alone.end()) if alone else 0
    place = _last_block(text, start) or _last_value(text, start)
    if place is None and alone:
        place = slice(alone.end(), start)
    if place is None:
        raise Unreadable("no_json")
    return place


def _last_block(text: str, start: int) -> slice | None:
    """The inside of the last closed pair of tags that holds a bracket; else of an empty pair; else of an open one."""
    tags = [*_TAG.finditer(text, start), None]
    full: list[slice] = []
    empty: list[slice] = []
    unclosed: list[slice] = []
    for tag, following in pairwise(tags):
        if tag is None or tag[1]:
            continue
        inside = slice(tag.end(), following.start() if following else len(text))
        if following is None or not following[1]:
            unclosed += [inside] if _JSON_ALONE.match(text[inside]) else []
        elif _BRACKET.search(text[inside]):
            full.append(inside)
        elif not text[inside].strip():
            empty.append(inside)
    return next((blocks[-1] for blocks in (full, empty, unclosed) if blocks), None)


def _last_value(text: str, start: int) -> slice | None:
    """The last list or object among prose."""
    last, position = None, start
    while match := _JSON_IN_PROSE.search(text, position):
        position = _end(text, match.end())
        last = slice(match.end(), position)
    return last


def _end(text: str, start: int) -> int:
    try:
        return strict_json(text, start)[1]
    except Unreadable:
        return len(text)


def _read_json(block: str) -> Any:
    """The value in a block; an empty one is an empty list. What cannot be read as a whole is read by entries."""
    if not block.strip():
        return []
    try:
        return loads(strict_json(block, 0)[0])
    except Unreadable:
        entries = _entries_one_by_one(block)
        if all(isinstance(entry, Unreadable) for entry in entries):
            raise
        return entries


def _entries_one_by_one(block: str) -> list[Any]:
    """The entries of a list that is broken somewhere; what cannot be read among them is Unreadable."""
    list_keys = list(_LIST_KEY.finditer(block))
    if not list_keys and "verification_log" in block:
        return []  # It broke off in the log, and entries quoted there are none of its own.
    openings = _ENTRY.finditer(block, list_keys[-1].end() if list_keys else 0)
    starts = [opening.start() for opening in islice(openings, MAX_ENTRIES + 1)]
    entries: list[Any] = []
    for start, end in pairwise([*starts, len(block)]):
        try:
            entries.append(loads(strict_json(block[start:end], 0)[0]))
        except Unreadable as why:
            entries.append(why)
    return entries


def _entries(value: Any) -> Any:
    """The list of replacements in a value, or what stands in its place."""
    if isinstance(value, dict):
        value = value.get("replacements", [value] if value.keys() & {"location", "content"} else None)
    return [value] if isinstance(value, dict) else value


def _reply(entries: Any, first_error: int | EntryFault | None, log: str, num_steps: int) -> OracleReply:
    """The reply to which the entries amount."""
    if isinstance(entries, Unreadable):
        return OracleReply(failure=entries.name, log=log)
    if not isinstance(entries, list):
        return OracleReply(failure="not_a_list", log=log)
    if not entries:
        return OracleReply(failure="no_error" if first_error is None else "no_replacement", log=log)
    located = first_error if isinstance(first_error, int) else None
    read = [_proposal(entry, located, num_steps) for entry in entries[:MAX_ENTRIES]]
    proposals = tuple(item for item in read if isinstance(item, Proposal))
    faults: list[str] = [item for item in read if not isinstance(item, Proposal)]
    if isinstance(first_error, str):
        faults.append(first_error)
    if len(entries) > MAX_ENTRIES:
        faults.append("too_many_entries")
    return OracleReply(proposals, None if proposals else "no_usable_entry", tuple(faults), log)


def _proposal(entry: Any, first_error: int | None, num_steps: int) -> Proposal | EntryFault:
    if isinstance(entry, Unreadable):
        return "duplicate_key" if entry.name == "duplicate_key" else "broken_entry"
    if not isinstance(entry, dict):
        return "not_an_object"
    location = _location(entry.get("location"), num_steps)
    if not isinstance(location, int):
        return location
    content = entry.get("content")
    return _content_fault(content) or Proposal(location, str(content).strip(), first_error)


def _location(value: Any, num_steps: int) -> int | EntryFault:
    """A step's number, from 3, "3" or "**Step 3:**"."""
    if value is None:
        return "location_missing"
    if isinstance(value, str):
        match = _LOCATION.fullmatch(value)
        if match is None:
            return "location_is_a_range" if len(re.findall(r"\b[0-9]+\b", value)) > 1 else "location_not_a_number"
        value = float(match[1].replace("\u2212", "-"))
    if not isinstance(value, float):
        return "location_not_a_number"
    if not 1 <= value <= num_steps:
        return "location_out_of_range"
    return int(value) if value.is_integer() else "location_not_whole"


def _first_error(value: Any, num_steps: int) -> int | EntryFault | None:
    """The step with the first error, None if the reply names none."""
    if value is None or (isinstance(value, str) and value.strip().lower() in ("", "none", "null")):
        return None
    location = _location(value, num_steps)
    return location if isinstance(location, int) else "first_error_unreadable"


def _content_fault(content: Any) -> EntryFault | None:
    if content is None:
        return "content_missing"
    if not isinstance(content, str):
        return "content_not_text"
    if UNSENDABLE.search(content):
        return "content_garbled"
    shows = any(character.isprintable() and not character.isspace() for character in content)
    return None if shows else "content_empty"


def _log(said: Any) -> str:
    """The verification log as text that can be stored."""
    if isinstance(said, list):
        said = "\n".join(map(str, said))
    return UNSENDABLE.sub("\ufffd", str(said)).strip()
