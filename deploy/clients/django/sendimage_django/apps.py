from django.apps import AppConfig


class SendimageConfig(AppConfig):
    name = "sendimage_django"
    verbose_name = "sendimage"

    def ready(self) -> None:
        from . import hooks

        hooks.connect()
