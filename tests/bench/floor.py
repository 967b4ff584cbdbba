"""The hit bench without sendimage: nginx alone, and the floor of X-Accel."""

from hit import floor as measure  # noqa: F401
