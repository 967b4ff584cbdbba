"""A Django site with a login: what `auth.mode = "forward"` is tested with.

    SITE_FOLDER=/tmp/x python site.py prepare
    SITE_FOLDER=/tmp/x python site.py runserver --noreload 127.0.0.1:8000

Its view for sendimage is of the README's kind: whoever is logged in may see every image, but one.
"""
import os
import sys
from pathlib import Path

import django
from django.conf import settings

FOLDER = Path(os.environ["SITE_FOLDER"])
settings.configure(
    SECRET_KEY="login-secret-key-of-the-test",
    DEBUG=False,
    ALLOWED_HOSTS=["www.example.org", "127.0.0.1"],
    ROOT_URLCONF=__name__,
    LOGIN_URL="/login/",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": FOLDER / "login.sqlite3"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    MIDDLEWARE=[
        "django.middleware.common.CommonMiddleware",
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
    ],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    USE_TZ=True,
)
django.setup()

from django.contrib.auth import authenticate, login, logout  # noqa: E402
from django.contrib.auth.mixins import LoginRequiredMixin  # noqa: E402
from django.core.exceptions import PermissionDenied  # noqa: E402
from django.http import HttpResponse  # noqa: E402
from django.urls import path  # noqa: E402
from django.views import View  # noqa: E402


class MaySeeImage(LoginRequiredMixin, View):
    """Answers sendimage's question: 204 for yes; logged out, the mixin's redirect to the login; 403 for no."""

    def dispatch(self, request, *args, **kwargs):
        with open(FOLDER / "asked", "a") as log:
            log.write(f"{request.headers.get('X-Image-Id')} {request.headers.get('X-Filter-Spec')} "
                      f"{request.headers.get('X-Original-URI')} {request.get_host()}\n")
        return super().dispatch(request, *args, **kwargs)

    def get(self, request):
        if request.headers["X-Image-Id"] == "media/annas.jpg" and request.user.username != "anna":
            raise PermissionDenied
        return HttpResponse(status=204)


def log_in(request):
    user = authenticate(request, username=request.GET["name"], password="password of " + request.GET["name"])
    if user is None:
        raise PermissionDenied
    login(request, user)
    return HttpResponse("welcome")


def log_out(request):
    logout(request)
    return HttpResponse("bye")


urlpatterns = [path("may-see-image", MaySeeImage.as_view()), path("login/", log_in), path("logout/", log_out)]

if __name__ == "__main__":
    from django.core.management import call_command, execute_from_command_line

    if sys.argv[1:] == ["prepare"]:
        call_command("migrate", verbosity=0)
        from django.contrib.auth.models import User

        for name in ["anna", "bert"]:
            User.objects.create_user(name, password="password of " + name)
    else:
        execute_from_command_line(sys.argv)
