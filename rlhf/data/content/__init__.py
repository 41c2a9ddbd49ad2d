"""What the texts of a record hold: characters, markers, markup, personal data, secrets, listed words."""

from rlhf.data.content.checks import ContentChecks

__all__ = ["ContentChecks"]
