"""Signed image URLs for sendimage, and its operations, with nothing but Python's standard library (3.8 or newer).

    images = Sendimage(key=os.environ["SENDIMAGE_KEY"], public_url="https://www.example.org",
                       preset_sets={"article": ["hero", "width-800"]})
    images.url(42, "fill-400x300|format-webp")
    images.url("media/2026/report.jpg", "width-1600", expires_in=3600, download="The report.jpg")
    images.urls(42, "article")                    # {"hero": "https://...", "width-800": "https://..."}

The URLs are those that `sendimage sign` prints, byte for byte.
"""

import base64
import hashlib
import hmac
import json
import re
import time
import urllib.error
import urllib.request
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple, Union
from urllib.parse import quote

__all__ = ["LABEL", "EXPIRY_WINDOW", "LAST_SECOND", "Operations", "OperationsError", "Sendimage", "expiry"]

#: First line of what is signed.
LABEL = "sendimage-v1"
#: `signing.expiry_window_seconds`, unless the config says otherwise: links made within one window are equal, so that
#: browsers can keep what they have.
EXPIRY_WINDOW = 3600
#: The end of the year 9999: no link lives longer.
LAST_SECOND = 253_402_300_799
#: What stays readable in a path segment, beside letters and digits.
SEGMENT_SAFE = "-._~!$'()*+,:;=@"
#: The same in a query's value.
QUERY_SAFE = "-._~!$()*,:@"

#: Control characters, which no field may hold: C0, DEL and C1.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_ID = re.compile("[0-9]+")
_EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp", "avif": "avif", "gif": "gif", "ico": "ico"}


def expiry(expires_in: float, window: int = EXPIRY_WINDOW, now: Optional[float] = None) -> int:
    """The Unix time at which a link that is to work for `expires_in` seconds ends: rounded up to a multiple of `window`."""
    if expires_in <= 0:
        raise ValueError("a link works for a second at least")
    window = max(window, 1)
    end = int((time.time() if now is None else now) + expires_in)
    return -(-end // window) * window


class Sendimage:
    """Makes URLs with one native key.

    `key`: `signing.secret`, as text (its UTF-8 is the key) or bytes. `prefix`: `server.url_prefix`, or the route's.
    `presets` and `preset_sets`: as in the config; of the presets only the format counts, for the decorative file name.
    """

    def __init__(
        self,
        key: Union[str, bytes],
        public_url: str = "",
        prefix: str = "/images/",
        presets: Optional[Mapping[str, str]] = None,
        preset_sets: Optional[Mapping[str, Sequence[str]]] = None,
        expiry_window: int = EXPIRY_WINDOW,
    ) -> None:
        self._key = key.encode() if isinstance(key, str) else bytes(key)
        self.public_url = public_url
        self.prefix = prefix
        self.presets = dict(presets or {})
        self.preset_sets = {name: list(entries) for name, entries in (preset_sets or {}).items()}
        self.expiry_window = expiry_window

    def url(
        self,
        ref: Union[int, str],
        spec: str,
        *,
        expires_in: Optional[float] = None,
        expires: Optional[int] = None,
        download: Optional[str] = None,
        filename: Optional[str] = None,
    ) -> str:
        """The URL of one rendition.

        `ref`: an image's id, or "source/path". `spec`: a filter spec or the name of a preset. `expires_in`: for how many
        seconds it works, rounded up to the window; or `expires`, the Unix time of its end as it is. `download`: the name
        that the browser saves it under. `filename`: the decorative end of an id's URL.

        Raises ValueError for what the service would not take.
        """
        subject, path = _split(ref)
        _check("spec", spec)
        if "/" in spec or spec in ("", ".", ".."):
            raise ValueError("a filter spec is neither empty nor a path")
        if expires_in is not None:
            if expires is not None:
                raise ValueError("give expires_in or expires, not both")
            expires = expiry(expires_in, self.expiry_window)
        if expires is not None and not 0 <= expires <= LAST_SECOND:
            raise ValueError("a link does not work beyond the year 9999")
        if download is not None:
            _check("download", download)
            if not download:
                raise ValueError("the name of a download is not empty")

        end = "" if expires is None else str(int(expires))
        text = "\n".join((LABEL, subject, spec, path, end, download or "", ""))
        digest = hmac.new(self._key, text.encode(), hashlib.sha256).digest()
        signature = base64.urlsafe_b64encode(digest).decode().rstrip("=")

        last = path or self._filename(subject, spec, filename)
        segments = [signature, subject, spec, *(last.split("/") if path else [last])]
        url = self.public_url + self.prefix + "/".join(quote(segment, safe=SEGMENT_SAFE) for segment in segments)
        query = []
        if end:
            query.append("expires=" + end)
        if download is not None:
            query.append("download=" + quote(download, safe=QUERY_SAFE))
        return url + ("?" + "&".join(query) if query else "")

    def urls(self, ref: Union[int, str], preset_set: str, **options: Any) -> Dict[str, str]:
        """The URLs of a preset set, by preset or spec, in its order; options as for `url`. Ready for a serializer."""
        if preset_set not in self.preset_sets:
            raise ValueError(f"there is no preset set {preset_set!r}")
        return {spec: self.url(ref, spec, **options) for spec in self.preset_sets[preset_set]}

    def _filename(self, subject: str, spec: str, filename: Optional[str]) -> str:
        if filename is None:
            return f"{subject}.{_extension(self.presets.get(spec, spec))}"
        _check("filename", filename)
        if "/" in filename or filename in (".", ".."):
            raise ValueError("a decorative file name is one segment of a path")
        return filename


def _split(ref: Union[int, str]) -> Tuple[str, str]:
    """An id and no path, or a source and a path."""
    ref = str(ref)
    if _ID.fullmatch(ref):
        return ref, ""
    source, _, path = ref.partition("/")
    _check("ref", ref)
    if not source or source in (".", "..") or "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError(f"{ref!r} is neither an image id (42) nor a source and a path (media/a/b.jpg)")
    if _ID.fullmatch(source):
        raise ValueError(f"{source!r} is an image id and has no paths")
    return source, path


def _check(name: str, text: str) -> None:
    if _CONTROL.search(text):
        raise ValueError(f"{name} holds a control character")


def _extension(spec: str) -> str:
    """That of the last `format-` in a spec; the name is decoration, so a guess will do where there is none."""
    for operation in reversed(spec.split("|")):
        name, _, argument = operation.partition("-")
        if name == "format" and argument.split("-")[0] in _EXTENSIONS:
            return _EXTENSIONS[argument.split("-")[0]]
    return "jpg"


class OperationsError(Exception):
    """A call that was not carried out. `status` is the answer's, or None when there was none."""

    def __init__(self, message: str, status: Optional[int] = None) -> None:
        super().__init__(message)
        self.status = status


class Operations:
    """The operations listener (`server.ops_listen`), with the token of `ops.token`."""

    def __init__(self, url: str, token: str, timeout: float = 5.0) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self._token = token
        # Never by way of a proxy that the environment names for the rest of the world: the token is for sendimage alone.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())

    def purge(self, refs: Sequence[Union[int, str]], timeout: Optional[float] = None) -> Dict[str, Any]:
        """Removes all renditions of these images."""
        return self.call("/purge", {"refs": [str(ref) for ref in refs]}, timeout)

    def warm(
        self,
        refs: Sequence[Union[int, str]],
        specs: Optional[Sequence[str]] = None,
        preset_set: Optional[str] = None,
        timeout: Optional[float] = None,
    ) -> Dict[str, Any]:
        """Renders ahead of time, and answers when it is done. When the time is over, what has not begun is left."""
        body: Dict[str, Any] = {"refs": [str(ref) for ref in refs]}
        if specs is not None:
            body["specs"] = list(specs)
        if preset_set is not None:
            body["preset_set"] = preset_set
        return self.call("/warm", body, timeout)

    def call(self, path: str, body: Mapping[str, Any], timeout: Optional[float] = None) -> Dict[str, Any]:
        """Posts JSON and returns the answer's. Raises OperationsError."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers, method="POST")
        try:
            with self._opener.open(request, timeout=timeout or self.timeout) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                says = error.read(500).decode(errors="replace").strip()
            raise OperationsError(f"{path}: {error.code} {says}", error.code) from None
        except (OSError, ValueError) as error:
            raise OperationsError(f"{path}: {error}") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the token elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None

