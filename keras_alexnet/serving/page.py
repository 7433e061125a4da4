"""The page that local_server shows to a browser at "/": drop a photo, see what the model sees.

One document: style and script stand inline, so "/" is all that has to be served, and a policy that
names the two by their hashes forbids the browser everything else. The page asks the server's own
REST API (`explain` of `keras_alexnet.serving.signatures`) and shows names of files and of classes,
which are other people's, as text alone.
"""

import base64
import hashlib
import html
import importlib.resources
from collections.abc import Mapping

CONTENT_TYPE = "text/html; charset=utf-8"

_FILES = importlib.resources.files(__package__) / "page_files"
_DOCUMENT, _STYLE, _SCRIPT = (
    (_FILES / name).read_text(encoding="utf-8") for name in ("page.html", "page.css", "page.js")
)


def _source(inline: str) -> str:
    """What a policy calls an inline script or style (Content Security Policy 3, section 2.3.1)."""
    digest = hashlib.sha256(inline.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            f"script-src {_source(_SCRIPT)}",
            f"style-src {_source(_STYLE)}",
            "img-src blob: data:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            # Text that is put into the page as markup is an error, whatever the script does.
            "require-trusted-types-for 'script'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a newer server may have a newer page
}


def content(model_name: str) -> bytes:
    """The page for one model, UTF-8; send it with `CONTENT_TYPE` and `HEADERS`.

    Args:
        model_name: that requests call it by; any text.
    """
    # The name comes last: what looks like a place to fill in stays text when it is in a name.
    document = (
        _DOCUMENT.replace("{{style}}", _STYLE)
        .replace("{{script}}", _SCRIPT)
        .replace("{{model_name}}", html.escape(model_name))
    )
    return document.encode("utf-8", "replace")  # a folder's name may have bytes that are no text
