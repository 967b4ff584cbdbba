"""Signed sendimage URLs in Django's templates and serializers, and images warmed and purged as they are saved and deleted.

    INSTALLED_APPS = [..., "sendimage_django"]
    SENDIMAGE = {
        "KEY_FILE": "/etc/sendimage/signing.key",
        "PUBLIC_URL": "https://www.example.org",
        "PRESET_SETS": {"article": ["hero", "width-800"]},
        "OPS_URL": "http://127.0.0.1:8481",
        "OPS_TOKEN_FILE": "/etc/sendimage/ops.token",
        "MODELS": ["shop.Product"],
        "WARM": "article",
    }

    {% load sendimage %}
    <img src="{% sendimage_url product.photo 'width-800' %}" srcset="{% sendimage_srcset product.photo 'width-400' 'width-800' %}">

    sendimage_django.urls_for(product.photo, "article")      # {"hero": "https://...", "width-800": "https://..."}

`conf.py` says what each setting is.
"""

from typing import Any, Dict

from .conf import conf
from .references import reference

__all__ = ["url_for", "urls_for"]


def url_for(image: Any, spec: str, **options: Any) -> str:
    """The URL of one rendition; "" where there is no image. `image`: see `references.reference`. Options: `expires_in`,
    `expires`, `download`, `filename`."""
    ref = reference(image)
    return "" if ref is None else conf.images.url(ref, spec, **conf.with_defaults(options))


def urls_for(image: Any, preset_set: str, **options: Any) -> Dict[str, str]:
    """The URLs of a preset set, by preset or spec: a plain dict, as a serializer's `SerializerMethodField` returns it. Empty
    where there is no image."""
    ref = reference(image)
    return {} if ref is None else conf.images.urls(ref, preset_set, **conf.with_defaults(options))
