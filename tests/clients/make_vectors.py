"""Makes tests/vectors/native_urls.json: rows for every client, and the URL that `sendimage sign` prints for each.

    tests/clients/make_vectors.py target/debug/sendimage >tests/vectors/native_urls.json

Ends of links are whole hours, and the command rounds up to those: an hour that has passed cannot be made again, so the rows
lie far ahead. The tests check all of them against another implementation of the signature.
"""

import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

KEY = "0123456789abcdef"
PUBLIC_URL = "https://img.example.org"
PRESETS = {
    "hero": "fill-1600x600|format-webp",
    "thumb_2": "fill-100x100",
    "lossless": "width-300|format-avif-lossless",
    "any": "width-700|format-auto",
}
PRESET_SETS = {"article": ["width-800", "hero", "fill-100x100"], "all": ["any", "lossless", "thumb_2", "hero", "original"]}

SPECS = [
    "original", "width-400", "fill-100x100", "fill-1600x600-c50|format-webp|webpquality-60", "max-90x90|jpegquality-40|bgcolor-fc3",
    "scale-33.3|format-png", "width-400|format-jpeg", "width-20|format-gif", "width-16|format-ico", "width-9|format-webp-lossless",
    "width-80|format-webp|format-jpeg", "crop-1,2,30,40|flip-h", "width-100|format-auto", "width-200|format-avif|dpr-1.5",
    *PRESETS,
]
PATHS = [
    "a.jpg", "2024/café 1.jpg", "2024/cafe\u0301.jpg", "with space.jpg", " leading and trailing ", "100%.jpg", "%41.jpg", "a%2Fb.jpg",
    "a+b.jpg", "a&b=c.jpg", "a=b|c.jpg", "user@host.jpg", "a'b\"c`.jpg", "semi;colon:comma,.jpg", "(1)[2]{3}.jpg", "tilde~star*.jpg",
    "question?.jpg", "hash#1.jpg", "dollar$bang!.jpg", "<script>.jpg", "caret^.jpg", "😀.jpg", "👩‍👩‍👧‍👦/🏳️‍🌈.png",
    "日本語/写真.jpg", "Ελληνικά.jpg", "עברית/תמונה.jpg", "العربية.jpg", "हिन्दी.jpg", "한글.jpg", "zero\u200bwidth.jpg", "soft\u00adhyphen.jpg",
    "no\u00a0break.jpg", "line\u2028separator.jpg", "bidi\u202eover.jpg", "\ufeffbom.jpg", "\U0010fffd.jpg", "deep/" * 12 + "end.jpg",
    "...", "..a/.b/c..", "-", "_", "~", "0", "007/42.jpg", "name.tar.gz", "ß" * 60 + ".jpg", "ﬁ ligature ﬂ.jpg", "Å vs \u212b.jpg", "I İ ı i.jpg",
]
DOWNLOADS = [
    "My Photo.webp", "a.jpg", "café.jpg", "cafe\u0301.jpg", "100%+1.jpg", "a&b=c;d.jpg", "it's \"quoted\".jpg", "a/b\\c.jpg", "semi;colon.jpg",
    "😀 😀.png", "日本語.jpg", "(1)*!$,:@~.jpg", " ", "?#[]{}|^`<>.jpg", "..", "\u202e.jpg",
]
FILENAMES = ["", "photo.jpg", "naïve café.webp", "a+b=c@d|e.jpg", "100%.jpg", "😀.jpg", "...", "it's;here,now:(1)*!~$.png", "a\\b.jpg"]
EXPIRES = [1893456000, 1900000800, 2000001600, 2147486400, 2524608000, 4102444800, 253402297200]


def rows():
    yield {"ref": "42", "spec": "fill-100x100", "filename": "x.jpg"}
    yield {"ref": "media/2024/café 1.jpg", "spec": "width-400|format-webp", "expires": 1893456000, "download": "My Photo.webp"}
    for spec in SPECS:
        yield {"ref": "42", "spec": spec}
        yield {"ref": "media/a.jpg", "spec": spec}
    for ref in ["0", "7", "007", "18446744073709551615", "99999999999999999999999"]:
        yield {"ref": ref, "spec": "width-400"}
    for path in PATHS:
        yield {"ref": "media/" + path, "spec": "width-400|format-webp"}
    for source in ["m", "Media_2", "a-b", "4x"]:
        yield {"ref": source + "/a b.jpg", "spec": "hero"}
    for download in DOWNLOADS:
        yield {"ref": "42", "spec": "width-400", "download": download}
        yield {"ref": "media/a.jpg", "spec": "hero", "download": download}
    for filename in FILENAMES:
        yield {"ref": "42", "spec": "hero", "filename": filename}
    for expires in EXPIRES:
        yield {"ref": "42", "spec": "width-400", "expires": expires}
        yield {"ref": "media/ü.jpg", "spec": "hero", "expires": expires, "download": "ü.jpg"}
    choose = random.Random(20261121).choice
    for _ in range(32):
        row = {"ref": "media/" + choose(PATHS) if choose([0, 1]) else choose(["42", "1000"]), "spec": choose(SPECS)}
        row.update({"expires": choose(EXPIRES)} if choose([0, 1]) else {})
        row.update({"download": choose(DOWNLOADS)} if choose([0, 1]) else {})
        yield row


def sets():
    for name in PRESET_SETS:
        yield {"ref": "42", "preset_set": name}
        yield {"ref": "media/2024/café 1.jpg", "preset_set": name, "expires": 1893456000}


#: What no client signs: the service would refuse it.
REFUSED = [
    {"ref": ref, "spec": "width-400"}
    for ref in ["", "media", "media/", "/a.jpg", "media//a.jpg", "media/../a.jpg", "media/./a.jpg", "media/a/", "media/a\\b.jpg",
                "media/a\nb.jpg", "media/a\u0000.jpg", "media/a\u007f.jpg", "media/a\u0085.jpg", "42/a.jpg", "../a.jpg", "-1", "٤٢"]
] + [
    {"ref": "42", "spec": spec} for spec in ["", ".", "..", "width-4/00", "width-\n400", "width-400\u0000"]
] + [
    {"ref": "42", "spec": "width-400", "download": "a\nb"},
    {"ref": "42", "spec": "width-400", "download": "a\u009fb"},
    {"ref": "42", "spec": "width-400", "filename": "a/b.jpg"},
    {"ref": "42", "spec": "width-400", "filename": ".."},
    {"ref": "42", "spec": "width-400", "filename": "a\rb"},
    {"ref": "42", "spec": "width-400", "expires": 253402300800},
]

EXPIRIES = [
    {"now": now, "expires_in": life, "window": window, "expires": -(-(now + life) // window) * window}
    for now, life, window in [
        (1_000_000, 60, 3600), (1_000_000, 3600, 3600), (1_000_800, 3600, 3600), (1_000_799, 1, 3600), (1_000_800, 1, 3600),
        (1_700_000_000, 1, 1), (1_700_000_000, 86_400, 60), (1_700_000_000, 86_400, 86_400), (1_700_000_000, 604_800, 7),
        (4_102_444_799, 1, 3600), (0, 1, 3600),
    ]
]


def main():
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "sendimage.toml")
        sources = "".join(f'[sources.{name}]\nkind = "fs"\nroot = "m"\n' for name in ["media", "m", "Media_2", "a-b", "4x"])
        tables = json.dumps  # TOML's strings and lists of them are JSON's, for these
        presets = "".join(f"{name} = {tables(spec)}\n" for name, spec in PRESETS.items())
        preset_sets = "".join(f"{name} = {tables(specs)}\n" for name, specs in PRESET_SETS.items())
        config.write_text(
            f'[server]\npublic_url = "{PUBLIC_URL}"\n[signing]\nsecret = "{KEY}"\n[store]\nroot = "r"\n{sources}'
            f"[presets]\n{presets}[preset_sets]\n{preset_sets}"
        )

        def sign(row, *arguments):
            command = [sys.argv[1], "sign", "-c", config, *arguments]
            if "expires" in row:
                # Half a window before its end: rounded up to it.
                command += ["--expires", str(row["expires"] - int(time.time()) - 1800)]
            command += [f"--{name}={row[name]}" for name in ("download", "filename") if name in row]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip("\n")

        vectors = {
            "made_by": "sendimage sign",
            "key": KEY,
            "public_url": PUBLIC_URL,
            "prefix": "/images/",
            "presets": PRESETS,
            "preset_sets": PRESET_SETS,
            "urls": [{**row, "url": sign(row, row["ref"], row["spec"])} for row in rows()],
            "sets": [
                {**row, "urls": json.loads(sign(row, row["ref"], "--json", "--preset-set", row["preset_set"]))} for row in sets()
            ],
            "expiries": EXPIRIES,
            "refused": REFUSED,
        }
    # One row a line, so that a change of one shows as that.
    lines = [f' "{name}": [\n  ' + ",\n  ".join(json.dumps(row, ensure_ascii=True) for row in value) + "\n ]"
             if isinstance(value, list) else f' "{name}": {json.dumps(value)}' for name, value in vectors.items()]
    print("{\n" + ",\n".join(lines) + "\n}")


if __name__ == "__main__":
    main()
