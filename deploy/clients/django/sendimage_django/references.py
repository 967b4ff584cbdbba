"""What sendimage calls an image: an id of its catalogue, or a source and a path."""

from typing import Any, Optional

from django.db.models import Model
from django.db.models.fields.files import FieldFile, ImageField

from .conf import conf


def reference(image: Any) -> Optional[str]:
    """The reference of an image, or None where there is none.

    An id or a reference is what it is; a field's file is a path in SENDIMAGE["SOURCE"]; an image of Wagtail's is its id; of
    another model's instance it is the file of its only ImageField. Any other object may have a `sendimage_ref`.
    """
    if image is None or image == "":
        return None
    if isinstance(image, (int, str)):
        return str(image)
    if isinstance(image, FieldFile):
        return f"{conf.SOURCE}/{image.name}" if image else None
    if hasattr(image, "sendimage_ref"):
        return image.sendimage_ref
    if isinstance(image, Model):
        if is_wagtail_image(type(image)):
            return None if image.pk is None else str(image.pk)
        fields = [field for field in image._meta.concrete_fields if isinstance(field, ImageField)]
        if len(fields) == 1:
            return reference(getattr(image, fields[0].attname))
    raise TypeError(f"sendimage cannot tell which image {type(image).__name__} is: give one of its fields")


def is_wagtail_image(model: Any) -> bool:
    """Whether this is Wagtail's image model, or a site's own in its place."""
    from django.apps import apps

    if not apps.is_installed("wagtail.images"):
        return False
    from wagtail.images.models import AbstractImage

    return issubclass(model, AbstractImage)
