"""`settings.SENDIMAGE`, read when it is first needed, and again when a test overrides it."""

from functools import cached_property
from typing import Any, Dict, Optional

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed

from .client import EXPIRY_WINDOW, Operations, Sendimage

DEFAULTS: Dict[str, Any] = {
    #: `signing.secret` as text or bytes; or the file that holds it (a final line break is dropped).
    "KEY": None,
    "KEY_FILE": None,
    #: `server.public_url`; "" makes URLs without a host.
    "PUBLIC_URL": "",
    #: `server.url_prefix`, or the route's.
    "PREFIX": "/images/",
    #: `[presets]` and `[preset_sets]`, as in sendimage's config.
    "PRESETS": {},
    "PRESET_SETS": {},
    #: `signing.expiry_window_seconds`.
    "EXPIRY_WINDOW": EXPIRY_WINDOW,
    #: For how many seconds links work that say nothing else. None: for ever.
    "EXPIRES_IN": None,
    #: The `[sources.NAME]` whose root is MEDIA_ROOT: files are referred to by their paths in it.
    "SOURCE": "media",
    #: The operations listener. Without an address nothing is warmed or purged.
    "OPS_URL": None,
    "OPS_TOKEN": None,
    "OPS_TOKEN_FILE": None,
    #: Seconds that a purge may take, and a warming: the call is given up then, and what has not begun is left.
    "TIMEOUT": 5.0,
    "WARM_TIMEOUT": 120.0,
    #: Models whose images are warmed and purged: "app.Model" for all its ImageFields, or "app.Model.field".
    "MODELS": [],
    #: Whether Wagtail's image model is one of them, where wagtail.images is installed. Its images are referred to by id.
    "WAGTAIL": True,
    #: A preset set, or a list of presets and specs, that saved images are rendered in ahead. None: they are not.
    "WARM": None,
}


class Conf:
    """The settings, and what is made from them."""

    def __getattr__(self, name: str) -> Any:
        if name not in DEFAULTS:
            raise AttributeError(name)
        return self.all[name]

    @cached_property
    def all(self) -> Dict[str, Any]:
        given = getattr(settings, "SENDIMAGE", {})
        unknown = sorted(set(given) - set(DEFAULTS))
        if unknown:
            raise ImproperlyConfigured(f"SENDIMAGE has no setting {', '.join(unknown)}")
        return {**DEFAULTS, **given}

    @cached_property
    def images(self) -> Sendimage:
        key = self._secret("KEY")
        if not key:
            raise ImproperlyConfigured("SENDIMAGE needs KEY or KEY_FILE: a key of sendimage's [signing]")
        return Sendimage(key, self.PUBLIC_URL, self.PREFIX, self.PRESETS, self.PRESET_SETS, self.EXPIRY_WINDOW)

    @cached_property
    def operations(self) -> Optional[Operations]:
        """None where the settings name no operations listener."""
        if not self.OPS_URL:
            return None
        token = self._secret("OPS_TOKEN")
        if not token:
            raise ImproperlyConfigured("SENDIMAGE has an OPS_URL and needs OPS_TOKEN or OPS_TOKEN_FILE too")
        return Operations(self.OPS_URL, token if isinstance(token, str) else token.decode(), self.TIMEOUT)

    def with_defaults(self, options: Dict[str, Any]) -> Dict[str, Any]:
        """The options of a URL, with the settings' life where they say nothing about it."""
        if self.EXPIRES_IN is None or "expires" in options:
            return options
        return {"expires_in": self.EXPIRES_IN, **options}

    def _secret(self, name: str) -> Any:
        file = self.all[name + "_FILE"]
        if file is None:
            return self.all[name]
        if self.all[name] is not None:
            raise ImproperlyConfigured(f"SENDIMAGE: give {name} or {name}_FILE, not both")
        with open(file, "rb") as opened:
            secret = opened.read()
        return secret[: -len(b"\r\n")] if secret.endswith(b"\r\n") else secret[:-1] if secret.endswith(b"\n") else secret

    def forget(self) -> None:
        for name in ("all", "images", "operations"):
            self.__dict__.pop(name, None)


conf = Conf()


def _changed(*, setting: str, **_: Any) -> None:
    if setting == "SENDIMAGE":
        conf.forget()


setting_changed.connect(_changed, dispatch_uid="sendimage_django.conf")
