"""What the Python client makes of the vectors, as JSON."""

import json
import sys

sys.path.insert(0, sys.argv[2])
from sendimage import Sendimage, expiry  # noqa: E402

vectors = json.load(open(sys.argv[1], encoding="utf-8"))
images = Sendimage(
    vectors["key"], vectors["public_url"], vectors["prefix"], vectors["presets"], vectors["preset_sets"]
)


def options(row):
    return {name: row[name] for name in ("expires", "download", "filename") if name in row}


def refuses(row):
    try:
        return images.url(row["ref"], row["spec"], **options(row))
    except ValueError:
        return True


print(json.dumps({
    "urls": [images.url(row["ref"], row["spec"], **options(row)) for row in vectors["urls"]],
    "sets": [images.urls(row["ref"], row["preset_set"], **options(row)) for row in vectors["sets"]],
    "expiries": [expiry(row["expires_in"], row["window"], row["now"]) for row in vectors["expiries"]],
    "refused": [refuses(row) for row in vectors["refused"]],
    "window": images.url("42", "width-1", expires_in=60),
    "half": refuses({"ref": "media/\ud800.jpg", "spec": "width-1"}),
}))
