"""Does to the site what its editors and templates do.

    site_tool.py prepare IMAGE...      database, an editor, and the images uploaded through Wagtail's own form
    site_tool.py urls SPEC...          prints, as JSON, what generate_image_url, {% image_url %} and the admin's generator give
    site_tool.py replace ID IMAGE      a new file for an image, through Wagtail's own form
    site_tool.py focus ID X Y W H      a focal point, through Wagtail's own form
"""
import html
import json
import mimetypes
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")

import django  # noqa: E402

django.setup()

from django.contrib.auth import get_user_model  # noqa: E402
from django.core.files.uploadedfile import SimpleUploadedFile  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.template import Context, Template  # noqa: E402
from django.test import Client  # noqa: E402
from wagtail.images import get_image_model  # noqa: E402
from wagtail.images.views.serve import generate_image_url  # noqa: E402
from wagtail.models import Site  # noqa: E402

Image = get_image_model()


def editor():
    client = Client()
    client.force_login(get_user_model().objects.get(username="editor"))
    return client


def upload(path):
    path = Path(path)
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return SimpleUploadedFile(path.name, path.read_bytes(), content_type=kind)


def posted(response, what):
    """Wagtail answers a good form with a redirect, and a bad one with itself."""
    if response.status_code != 302:
        errors = response.context["form"].errors if response.context else response.content[:500]
        sys.exit(f"{what}: {response.status_code} {errors}")


def prepare(images):
    call_command("migrate", verbosity=0)
    Site.objects.filter(is_default_site=True).update(hostname="localhost", port=80)
    get_user_model().objects.create_superuser("editor", "editor@example.org", "secret")
    client = editor()
    for image in images:
        form = {"title": Path(image).stem, "file": upload(image), "collection": 1, "tags": ""}
        posted(client.post("/admin/images/add/", form), image)


def urls(specs):
    client, rows = editor(), []
    tag = Template("{% load wagtailimages_tags %}{% image_url image spec %}")
    for image in Image.objects.order_by("id"):
        for spec in specs:
            rows.append(
                {
                    "id": image.pk,
                    "file": image.file.name,
                    "spec": spec,
                    "function": generate_image_url(image, spec),
                    "tag": tag.render(Context({"image": image, "spec": spec}, autoescape=False)),
                    "generator": generated(client, image, spec),
                }
            )
    print(json.dumps(rows))


def generated(client, image, spec):
    """What the admin's URL generator shows for a plain width; it offers no other spec with a single number."""
    method, _, width = spec.partition("-")
    if method != "width" or not width.isdigit():
        return None
    form = {"filter_method": "width", "width": width, "height": width, "closeness": 0}
    page = client.get(f"/admin/images/{image.pk}/generate_url/output/", form).content.decode()
    found = re.search(r"https?://[^/]+(/images/[^\"'<\s]+)", page)
    return html.unescape(found.group(1)) if found else page[:300]


def edit(pk, **changes):
    image = Image.objects.get(pk=pk)
    form = {"title": image.title, "collection": 1, "tags": ""}
    for field in ("x", "y", "width", "height"):
        form[f"focal_point_{field}"] = getattr(image, f"focal_point_{field}") or ""
    form.update(changes)
    posted(editor().post(f"/admin/images/{pk}/", form), f"image {pk}")


command, arguments = sys.argv[1], sys.argv[2:]
if command == "prepare":
    prepare(arguments)
elif command == "urls":
    urls(arguments)
elif command == "replace":
    edit(arguments[0], file=upload(arguments[1]))
elif command == "focus":
    names = ("focal_point_x", "focal_point_y", "focal_point_width", "focal_point_height")
    edit(arguments[0], **dict(zip(names, arguments[1:])))
else:
    sys.exit(__doc__)
