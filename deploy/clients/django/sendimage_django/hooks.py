"""Warms and purges images as they are saved and deleted.

What is to be done is done once the transaction is committed, by a thread of its own: a save waits for nothing and never fails
for sendimage's sake. What fails is in the log `sendimage_django`. Nothing depends on it: a rendition that was not warmed is
rendered when it is asked for, and a replaced file has other renditions in any case.

`QuerySet.update()` and `bulk_create()` send no signals, so they warm and purge nothing.
"""

import logging
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Optional, Set, Tuple

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.db.models import ImageField, Model
from django.db.models.signals import post_delete, post_init, post_save, pre_save

from .client import OperationsError
from .conf import conf
from .references import is_wagtail_image

log = logging.getLogger("sendimage_django")

#: Calls that wait at most, where images are saved faster than they can be told of; more are dropped, and said.
MAX_WAITING = 1000
#: Seconds before a call is made again that was answered 503: sendimage is there, and could not do it at that moment.
PAUSES = (1.0, 4.0)

#: By model: the names of its image fields.
_fields: Dict[Any, Set[str]] = {}


def connect() -> None:
    """Connects the signals of the models in the settings."""
    if not conf.OPS_URL:
        return
    for model, field in _models():
        if model not in _fields:
            _fields[model] = set()
            uid = f"sendimage_django {model._meta.label}"
            post_init.connect(_remember, sender=model, dispatch_uid=uid)
            pre_save.connect(_note_upload, sender=model, dispatch_uid=uid)
            post_save.connect(_saved, sender=model, dispatch_uid=uid)
            post_delete.connect(_deleted, sender=model, dispatch_uid=uid)
        _fields[model].add(field)


def _models() -> List[Tuple[Any, str]]:
    found = []
    for text in conf.MODELS:
        label, name = (text, None) if text.count(".") == 1 else text.rsplit(".", 1)
        try:
            model = apps.get_model(label)
        except (LookupError, ValueError) as error:
            raise ImproperlyConfigured(f'SENDIMAGE["MODELS"]: {text!r}: {error}') from None
        fields = [field.name for field in model._meta.concrete_fields if isinstance(field, ImageField)]
        if not fields or (name is not None and name not in fields):
            raise ImproperlyConfigured(f'SENDIMAGE["MODELS"]: {text!r} has no such ImageField')
        found += [(model, field) for field in fields if name in (None, field)]
    if conf.WAGTAIL and apps.is_installed("wagtail.images"):
        from wagtail.images import get_image_model

        found.append((get_image_model(), "file"))
    return found


def _files(instance: Model) -> Dict[str, str]:
    """The names of an instance's files, as far as they are loaded: a deferred field is not fetched for this."""
    loaded = [name for name in _fields[type(instance)] if name in instance.__dict__]
    return {name: getattr(instance, name).name or "" for name in loaded}


def _remember(instance: Model, **_: Any) -> None:
    if type(instance) in _fields:
        instance._sendimage_files = _files(instance)


def _note_upload(instance: Model, **_: Any) -> None:
    """A file that is about to be written may get the name of an older one."""
    loaded = [name for name in _fields[type(instance)] if name in instance.__dict__]
    fresh = [name for name in loaded if getattr(instance, name) and not getattr(instance, name)._committed]
    instance._sendimage_uploads = fresh


def _saved(instance: Model, using: str, raw: bool = False, **_: Any) -> None:
    # `raw`: a fixture is being loaded.
    if raw:
        return
    before, now = getattr(instance, "_sendimage_files", {}), _files(instance)
    uploads = getattr(instance, "_sendimage_uploads", [])
    gone = [name for field, name in before.items() if name and now.get(field, name) != name]
    gone += [now[field] for field in uploads if now.get(field)]
    instance._sendimage_files, instance._sendimage_uploads = {**before, **now}, []
    _after_commit(using, [_path(name) for name in gone], _references(instance, now))


def _deleted(instance: Model, using: str, **_: Any) -> None:
    names = {**getattr(instance, "_sendimage_files", {}), **_files(instance)}
    gone = [_path(name) for name in names.values() if name]
    if is_wagtail_image(type(instance)) and instance.pk is not None:
        gone.append(str(instance.pk))
    _after_commit(using, gone, [])


def _path(name: str) -> str:
    return f"{conf.SOURCE}/{name}"


def _references(instance: Model, files: Dict[str, str]) -> List[str]:
    if is_wagtail_image(type(instance)):
        return [str(instance.pk)]
    return [_path(name) for name in files.values() if name]


def _after_commit(using: str, purge: List[str], warm: List[str]) -> None:
    warm = warm if conf.WARM else []
    if not purge and not warm:
        return
    # `robust`: what goes wrong in here is nobody else's business. The work itself is for the thread.
    transaction.on_commit(lambda: _background.add(purge, warm), using=using, robust=True)


def _patiently(call: Callable[[], Any]) -> None:
    for pause in PAUSES:
        try:
            call()
            return
        except OperationsError as error:
            if error.status != 503:
                raise
        time.sleep(pause)
    call()


class _Background:
    """One thread, begun by the process that needs it: one that was begun before a fork is not there after it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid: Optional[int] = None
        self._waiting = 0
        self._thread: Optional[ThreadPoolExecutor] = None

    def add(self, purge: List[str], warm: List[str]) -> None:
        with self._lock:
            if self._pid != os.getpid():
                self._pid, self._waiting = os.getpid(), 0
                self._thread = ThreadPoolExecutor(1, "sendimage")
            if self._waiting >= MAX_WAITING:
                log.warning("sendimage is told of nothing more: %s calls wait", self._waiting)
                return
            self._waiting += 1
        try:
            self._thread.submit(self._tell, purge, warm)
        except RuntimeError as error:  # the interpreter is shutting down
            log.warning("sendimage was not told: %s", error)

    def _tell(self, purge: List[str], warm: List[str]) -> None:
        try:
            if purge:
                _patiently(lambda: conf.operations.purge(purge))
            if warm:
                wanted = {"preset_set": conf.WARM} if isinstance(conf.WARM, str) else {"specs": conf.WARM}
                _patiently(lambda: conf.operations.warm(warm, timeout=conf.WARM_TIMEOUT, **wanted))
        except OperationsError as error:
            log.warning("sendimage was not told: %s", error)
        except Exception:
            log.exception("sendimage was not told")
        finally:
            with self._lock:
                self._waiting -= 1

    def wait(self, seconds: float) -> None:
        """Waits until all that was added is done: for tests and scripts."""
        if self._thread is not None and self._pid == os.getpid():
            self._thread.submit(int).result(seconds)


_background = _Background()
#: Waits, for so many seconds, until sendimage has been told of all that was committed.
wait = _background.wait
