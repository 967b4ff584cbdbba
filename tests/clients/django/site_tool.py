"""What an editor does to the site, and what its pages say: one command for each, which prints JSON.

It ends as any script does; what sendimage is to be told is told by then.
"""

import json
import sys
import time
from pathlib import Path

import django

django.setup()

from django.conf import settings  # noqa: E402
from django.core.files.base import ContentFile  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import transaction  # noqa: E402
from django.template import Context, Template  # noqa: E402
from sendimage_django import url_for, urls_for  # noqa: E402
from sendimage_django.references import reference  # noqa: E402
from shop.models import Product  # noqa: E402

PAGE = """{% load sendimage %}<img src="{% sendimage_url product.photo 'hero' expires_in=600 download="it's & a.webp" %}"
srcset="{% sendimage_srcset product.photo 'article' %}, {% sendimage_srcset product.photo 'width-30' %}">
{% sendimage_url product "width-20" as by_model %}<a href="{{ by_model }}">empty=({% sendimage_url empty.photo 'hero' %})</a>"""


def content(file, name):
    return ContentFile(Path(file).read_bytes(), name)


def prepare():
    call_command("migrate", run_syncdb=True, verbosity=0)


def save(file, name):
    product = Product(name=name, photo=content(file, name))
    began = time.monotonic()
    product.save()
    return {"id": product.pk, "seconds": time.monotonic() - began}


def touch(pk):
    product = Product.objects.get(pk=pk)
    product.name = "another"
    product.save()
    # Without its file at hand.
    product = Product.objects.only("name").get(pk=pk)
    product.name = "a third"
    product.save(update_fields=["name"])


def roll_back(file):
    try:
        with transaction.atomic():
            save(file, "never.jpg")
            raise KeyError
    except KeyError:
        pass


def replace(pk, file, name):
    product = Product.objects.get(pk=pk)
    product.photo = content(file, name)
    product.save()


def overwrite(pk, file):
    product = Product.objects.get(pk=pk)
    name = product.photo.name
    product.photo.storage.delete(name)
    product.photo = content(file, Path(name).name)
    product.save()
    assert product.photo.name == name


def delete(pk):
    Product.objects.get(pk=pk).delete()


def delete_all():
    Product.objects.all().delete()


def page(pk):
    product = Product.objects.get(pk=pk)
    return {
        "html": Template(PAGE).render(Context({"product": product, "empty": Product()})),
        "urls": urls_for(product.photo, "article"),
        "link": url_for(product.photo, "width-50", expires_in=600),
        "ref": reference(product.photo),
    }


def save_wagtail(file, name):
    from wagtail.images import get_image_model

    # As a site does that is installed by migrations.
    image = get_image_model().objects.create(title=name, file=content(file, name))
    return {"id": image.pk, "ref": reference(image), "url": url_for(image, "hero")}


def focus_wagtail(pk):
    from wagtail.images import get_image_model

    image = get_image_model().objects.get(pk=pk)
    image.focal_point_x, image.focal_point_y, image.focal_point_width, image.focal_point_height = 10, 10, 20, 20
    image.save()


def delete_wagtail(pk):
    from wagtail.images import get_image_model

    get_image_model().objects.get(pk=pk).delete()


assert settings.configured
print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
