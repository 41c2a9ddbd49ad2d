"""Addresses of people and machines: e-mail and IP."""

import ipaddress
import re

_AT = re.compile(r"(?<=[\w%+-])@(?=[^\W_])")
_LOCAL = re.compile(r"[^\W_](?:[\w.%+'-]{0,63})\Z")
_DOMAIN = re.compile(r"[\w.-]{1,253}")
_LABEL = re.compile(r"[^\W_](?:[\w-]{0,61}[^\W_])?")
_TOP = re.compile(r"[a-z]{2}|[A-Z]{2}")
_COMMON_TOP = re.compile(
    "(?:com|org|net|edu|gov|mil|int|info|biz|name|pro|mobi|travel|jobs|museum|coop|aero|app|dev|xyz|online|site|tech"
    "|store|shop|blog|cloud|email|agency|academy|company|solutions|services|group|team|world|life|live|news|media"
    "|digital|network|systems|software|studio|design|art|club|space|website|host|global|international|bank|law|health"
    "|care|support|center|school|university|church|foundation|ngo|berlin|hamburg|london|paris|nyc|tokyo|wien)",
    re.IGNORECASE,
)
"""Top-level domains other than countries' that people have addresses in; `.png` or `.shape` after an @ is none."""

_V4 = re.compile(
    r"(?<![\w.+-])(?<![^/]/)(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])\.){3}"
    r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(?!\w|\.\w|-[A-Za-z])",
    re.ASCII,
)
_V6 = re.compile(r"(?<![\w:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:]{3,34}(?![\w:])", re.ASCII)
_MIN_V6_GROUPS = 3
_NUMBERED = re.compile(
    r"(?:\bv|\bver|version|release|build|section|\bsec|§|chapter|clause|firmware|driver|\brev|revision|update"
    r"|table|figure|\bfig|article|paragraph|annex|appendix|\bitem|\bstep)s?\s{0,3}[.:#=]?\s{0,3}\Z",
    re.IGNORECASE,
)
_CHANGED_TO = re.compile(
    r"\b(?:updat|upgrad|downgrad|patch|bump)(?:e|ed|es|ing|s)?\b[^\n]{0,30}\b(?:to|from)\s{1,3}\Z",
    re.IGNORECASE,
)
_NETWORKED = re.compile(
    r"\b(?:ips?|ipv4|address(?:es)?|servers?|hosts?|dns|ping|ssh|telnet|gateway|router|subnet|network|proxy|firewall"
    r"|resolver|clients?|port|traceroute|curl|wget)\b|://",
    re.IGNORECASE,
)
_NAMED_PRODUCT = re.compile(r"\b[A-Z][A-Za-z]+ \Z")


def find_email(text: str) -> str | None:
    """The first e-mail address.

    Handles (`@name`, `@name@server`), decorators, `package@1.2`, matrix products and `git@host:path` are none.
    """
    for at in _AT.finditer(text):
        index = at.start()
        start = max(0, index - 64)
        local = _LOCAL.search(text[start:index])
        domain = _domain(text, index + 1)
        if local is None or domain is None or local[0] == "git":
            continue
        if not _is_part(text, start + local.start(), index + 1 + len(domain)):
            return f"{local[0]}@{domain}"
    return None


def _domain(text: str, start: int) -> str | None:
    found = _DOMAIN.match(text, start)
    domain = "" if found is None else found[0].rstrip(".-")
    labels = domain.split(".")
    top = labels[-1]
    known = _TOP.fullmatch(top) or _COMMON_TOP.fullmatch(top)
    if len(labels) > 1 and known and all(_LABEL.fullmatch(label) for label in labels):
        return domain
    return None


def _is_part(text: str, start: int, end: int) -> bool:
    """Whether the address is part of a handle, a URL, a path for `scp`, or an expression in code."""
    before, after = text[max(0, start - 80) : start], text[end : end + 2]
    word = before.rsplit(maxsplit=1)[-1] if before and not before[-1].isspace() else ""
    path = after[:1] == ":" and (after[1:].isalnum() or after[1:] in {"/", "~"})
    return word.endswith(("@", "/")) or "://" in word or path or after[:1] in {"(", "[", "@"}


def find_ip(text: str) -> str | None:
    """The first public IP address: not private, reserved, or for documentation; not a version or a section's number."""
    for found in _V4.finditer(text):
        if _is_public(ipaddress.IPv4Address(found[0])) and _is_address(text, found):
            return found[0]
    for found in _V6.finditer(text):
        groups = [group for group in found[0].split(":") if group]
        if len(groups) >= _MIN_V6_GROUPS and _is_public_v6(found[0]):
            return found[0]
    return None


def _is_public_v6(text: str) -> bool:
    try:
        return _is_public(ipaddress.IPv6Address(text if text.endswith("::") else text.rstrip(":")))
    except ValueError:
        return False


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return address.is_global and not address.is_multicast


def _is_address(text: str, found: re.Match[str]) -> bool:
    """Whether four numbers with dots are an address: the words around say so, or no version is numbered like this."""
    before, after = text[max(0, found.start() - 40) : found.start()], text[found.end() : found.end() + 25]
    if _NUMBERED.search(before) or _CHANGED_TO.search(before):
        return False
    if _NETWORKED.search(before) or _NETWORKED.search(after):
        return True
    octets = [int(octet) for octet in found[0].split(".")]
    if min(octets) >= 8:
        return True
    return max(octets) >= 100 and not (octets[0] < 20 and _NAMED_PRODUCT.search(before))
