"""The smallest site with an image of its own: what the tests of the Django app save and delete."""

import os
from pathlib import Path

FOLDER = Path(os.environ["SITE_FOLDER"])
WAGTAIL = bool(os.environ["SITE_WAGTAIL"])
SECRET_KEY = "of-no-use-to-anybody"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["shop", "sendimage_django"]
if WAGTAIL:
    INSTALLED_APPS += [
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
        "django.contrib.staticfiles",
    ]
    WAGTAIL_SITE_NAME = "shop"
    WAGTAILADMIN_BASE_URL = "http://localhost"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "db.sqlite3"}}
MEDIA_ROOT = FOLDER / "media"
MEDIA_URL = "/media/"
STATIC_URL = "/static/"
SENDIMAGE = {
    "KEY_FILE": FOLDER / "key",
    "PUBLIC_URL": os.environ["SITE_URL"],
    "PRESETS": {"hero": "fill-40x40|format-webp"},
    "PRESET_SETS": {"article": ["hero", "width-50"]},
    "OPS_URL": os.environ["SITE_OPS"],
    "OPS_TOKEN_FILE": FOLDER / "token",
    "TIMEOUT": 2,
    "WARM_TIMEOUT": 5,
    "MODELS": ["shop.Product"],
    "WARM": "article",
}
