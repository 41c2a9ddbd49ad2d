"""Keys and tokens that open something, told by the form that their makers gave them."""

import re

_PRIVATE_KEY = re.compile(r"-----BEGIN (?:[A-Z0-9]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"(?:AKIA|ASIA)[A-Z0-9]{16}"  # Amazon
    r"|AIza[\w-]{35}"  # Google
    r"|gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_\w{50,251}"
    r"|glpat-[\w-]{20,60}"
    r"|hf_[A-Za-z0-9]{34,40}"
    r"|sk-(?:proj|svcacct|admin|ant-[a-z]{3,8}[0-9]{2})-[\w-]{20,250}|sk-[A-Za-z0-9]{32,64}"
    r"|[sr]k_live_[A-Za-z0-9]{16,250}"  # Stripe
    r"|xox[abeoprs]-[A-Za-z0-9-]{20,250}"  # Slack
    r"|npm_[A-Za-z0-9]{36}|pypi-AgEI[\w-]{50,250}"
    r"|SG\.[\w-]{22}\.[\w-]{43}"  # SendGrid
    r"|eyJ[\w-]{10,4000}\.eyJ[\w-]{10,8000}\.[\w-]{20,4000}"  # JSON web tokens
    r")(?![A-Za-z0-9])",
    re.ASCII,
)
_LETTERS_ALONE = ("AKIA", "ASIA", "gh", "glpat-", "hf_", "npm_", "rk_", "sk_")
"""Starts of tokens so short that they may by chance have no digit; others without one are words with hyphens."""
_MIN_DISTINCT = 10
"""Fewer different characters are a placeholder, such as `ghp_xxxx…`."""


def find_secret(text: str) -> str | None:
    """The first private key's first line, or token of a known form that is no placeholder."""
    if key := _PRIVATE_KEY.search(text):
        return key[0]
    return next((token[0] for token in _TOKEN.finditer(text) if _is_random(token[0])), None)


def _is_random(token: str) -> bool:
    if len(set(token)) < _MIN_DISTINCT:
        return False
    return token.startswith(_LETTERS_ALONE) or any(char.isdigit() for char in token)
