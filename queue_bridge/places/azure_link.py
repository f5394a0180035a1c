"""Links to blobs of Azure: what the library signs is wrong for names that an address has to write with %."""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

# The lines that are signed, by the names of their fields in the address; the fourth is the blob itself.
# learn.microsoft.com/rest/api/storageservices/create-service-sas, version 2020-12-06 and later.
FIELDS = (
    "sp",
    "st",
    "se",
    "",
    "si",
    "sip",
    "spr",
    "sv",
    "sr",
    "snapshot",
    "ses",
    "rscc",
    "rscd",
    "rsce",
    "rscl",
    "rsct",
)


def signed_again(url: str, account: str, account_key: str) -> str:
    """A signed address of a blob with the signature over its name as it is, which is what Azure checks.

    url: a service SAS as the library makes it; with another host than the account's, the account begins its path.
    account_key: in base64. Raises ValueError when that is none.
    """
    parts = urlsplit(url)
    fields = dict(parse_qsl(parts.query, keep_blank_values=True))
    named = (parts.hostname or "").partition(".")[0] == account
    blob = f"/blob/{account}{unquote(parts.path)}" if named else f"/blob{unquote(parts.path)}"
    lines = "\n".join(fields.get(name, "") if name else blob for name in FIELDS)
    digest = hmac.new(base64.b64decode(account_key), lines.encode(), hashlib.sha256).digest()
    return urlunsplit(parts._replace(query=urlencode(fields | {"sig": base64.b64encode(digest).decode()})))
