"""Computes every signature of the vectors anew, from the URL alone: nothing of this is shared with any client.

    python3 signatures.py native_urls.json
"""

import hashlib
import hmac
import json
import sys
from base64 import b64decode
from urllib.parse import unquote, urlsplit

vectors = json.load(open(sys.argv[1], encoding="utf-8"))
urls = [row["url"] for row in vectors["urls"]] + [url for row in vectors["sets"] for url in row["urls"].values()]
wrong = []
for url in urls:
    parts = urlsplit(url)
    signature, subject, spec, *rest = parts.path[len(vectors["prefix"]):].split("/")
    query = dict(pair.split("=") for pair in parts.query.split("&")) if parts.query else {}
    path = "" if subject.isdigit() else "/".join(rest)
    fields = [subject, spec, path, query.get("expires", ""), query.get("download", "")]
    text = "sendimage-v1\n" + "".join(unquote(field, errors="strict") + "\n" for field in fields)
    given = b64decode(signature.replace("-", "+").replace("_", "/") + "=")
    if given != hmac.new(vectors["key"].encode(), text.encode(), hashlib.sha256).digest():
        wrong.append(url)
for url in wrong:
    print(url)
print(f"{len(urls)} signatures, {len(wrong)} wrong")
sys.exit(bool(wrong))
