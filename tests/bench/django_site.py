"""The sites of `django_peers.py`, served by gunicorn as `django_site:application`; which of them, $SITE says.

As a program it makes the site for the rendition files named on its input, and prints a signed path for each.
"""

import os
import sys
from pathlib import Path

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.urls import path, re_path

WAGTAIL = os.environ["SITE"] == "wagtail"
FOLDER, STORE, SPEC = Path(os.environ["SITE_FOLDER"]), Path(os.environ["SITE_STORE"]), os.environ["SITE_SPEC"]

common = {
    "SECRET_KEY": "bench-secret-key",
    "DEBUG": False,
    "ALLOWED_HOSTS": ["*"],
    "ROOT_URLCONF": __name__,
    "MIDDLEWARE": [],
    "USE_TZ": True,
    "SENDFILE_BACKEND": "django_sendfile.backends.nginx",
    "SENDFILE_ROOT": str(STORE),
    "SENDFILE_URL": "/_renditions",
}
wagtail = {
    "INSTALLED_APPS": [
        "wagtail.users",
        "wagtail.images",
        "wagtail.documents",
        "wagtail.search",
        "wagtail.admin",
        "wagtail",
        "modelcluster",
        "taggit",
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "django.contrib.messages",
    ],
    "DATABASES": {
        "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "db.sqlite3", "CONN_MAX_AGE": None},
    },
    # Of its own accord it holds 300 entries: of 1,000 renditions asked for in turn, never the one that is next.
    "CACHES": {
        "default": {
            "BACKEND": "django.core.cache.backends.locmem.LocMemCache",
            "TIMEOUT": None,
            "OPTIONS": {"MAX_ENTRIES": 100_000},
        }
    },
    "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
    "MEDIA_ROOT": STORE,
    "MEDIA_URL": "/media/",
    "STATIC_URL": "/static/",
    "WAGTAIL_SITE_NAME": "bench",
    "WAGTAILADMIN_BASE_URL": "http://localhost",
}
settings.configure(**common, **(wagtail if WAGTAIL else {}))
django.setup()

if WAGTAIL:
    from wagtail.images.views.serve import SendFileView

    urlpatterns = [re_path(r"^images/([^/]*)/(\d*)/([^/]*)/[^/]*$", SendFileView.as_view(), name="wagtailimages_serve")]
else:
    from django.core.signing import BadSignature, Signer
    from django.http import HttpResponseForbidden
    from django_sendfile import sendfile

    def serve(request, signed):
        try:
            name = Signer().unsign(signed)
        except BadSignature:
            return HttpResponseForbidden()
        # nginx keeps a connection only where no body is announced, and none follows; the length it sees for itself.
        return sendfile(request, STORE / name, content_length=0)

    urlpatterns = [path("images/<path:signed>", serve)]

application = WSGIHandler()


def wagtail_paths(files):
    """Rows as Wagtail writes them when it has rendered. There are no originals: a rendition that it would make is an error."""
    from django.core.management import call_command
    from wagtail.images.models import Image, Rendition
    from wagtail.images.views.serve import generate_image_url

    call_command("migrate", verbosity=0)
    numbers = range(1, len(files) + 1)
    images = [
        Image(
            pk=number,
            title=str(number),
            file=f"original_images/{number}.jpg",
            file_hash=f"{number:040x}",
            width=800,
            height=600,
            collection_id=1,
        )
        for number in numbers
    ]
    Image.objects.bulk_create(images)
    Rendition.objects.bulk_create(
        Rendition(image=image, filter_spec=SPEC, focal_point_key="", file=name, width=480, height=360)
        for image, name in zip(images, files)
    )
    return [generate_image_url(image, SPEC) for image in images]


def sendfile_paths(files):
    return [f"/images/{Signer().sign(name)}" for name in files]


if __name__ == "__main__":
    print("\n".join((wagtail_paths if WAGTAIL else sendfile_paths)(sys.stdin.read().split())))
