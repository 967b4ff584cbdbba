"""`{% load sendimage %}`"""

import re
from typing import Any

from django import template

from sendimage_django import url_for
from sendimage_django.conf import conf

register = template.Library()

#: A width that a spec ends with: that of `width-800`, `fill-800x600`, `max-800x600` ...
_WIDTH = re.compile(r"(?:width|fill|max|min|pad)-([0-9]+)(?:x|-|$)")
_DPR = re.compile(r"dpr-([0-9]+(?:\.[0-9]+)?)")


@register.simple_tag
def sendimage_url(image: Any, spec: str, **options: Any) -> str:
    """`{% sendimage_url image "fill-400x300|format-webp" expires_in=3600 download="Photo.webp" %}`"""
    return url_for(image, spec, **options)


@register.simple_tag
def sendimage_srcset(image: Any, *specs: str, **options: Any) -> str:
    """`{% sendimage_srcset image "width-400" "width-800" %}`, or with the name of a preset set.

    Each is described by the width that it asks for; specs with `dpr-` alone tell them apart by that.
    """
    if len(specs) == 1 and specs[0] in conf.PRESET_SETS:
        specs = tuple(conf.PRESET_SETS[specs[0]])
    entries = [(url_for(image, spec, **options), _descriptor(spec)) for spec in specs]
    # A comma at a URL's end would be the list's.
    return ", ".join(f"{re.sub(',$', '%2C', url)} {size}".rstrip() for url, size in entries if url)


def _descriptor(spec: str) -> str:
    operations = conf.PRESETS.get(spec, spec).split("|")
    widths = [found.group(1) for found in map(_WIDTH.match, operations) if found]
    density = next((found.group(1) for found in map(_DPR.fullmatch, operations) if found), None)
    if widths:
        return f"{round(int(widths[-1]) * float(density or 1))}w"
    return f"{density}x" if density else ""
