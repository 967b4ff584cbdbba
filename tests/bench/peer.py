"""python peer.py vips|willow WORK: WORK is JSON {source, width, height, format, quality, repeat, output}.

Prints the milliseconds of each render, after some to warm up. Both read the file anew each time, on one thread.
"""

import io
import json
import os
import sys
import time


def vips():
    os.environ["VIPS_CONCURRENCY"] = "1"
    import pyvips

    pyvips.cache_set_max(0)
    # As sharp encodes: the same libraries with the same settings, unless the work says otherwise.
    encoders = {
        "jpeg": (".jpg", {}),
        "png": (".png", {}),
        "webp": (".webp", {}),
        "avif": (".avif", {"effort": 4, "subsample_mode": "off"}),
    }

    def render(work):
        suffix, settings = encoders[work["format"]]
        if work["quality"]:
            settings = {**settings, "Q": work["quality"]}
        size = {"height": work["height"], "crop": "centre"} if work["height"] else {"height": 10_000_000}
        image = pyvips.Image.thumbnail(work["source"], work["width"], **size)
        return image.write_to_buffer(suffix, keep="none", **settings)

    return render


def willow():
    import willow

    def render(work):
        """The calls that Wagtail makes for fill and width, with what it saves each format with."""
        with open(work["source"], "rb") as file:
            image = willow.Image.open(file).auto_orient()
            width, height = image.get_size()
            size = work["width"], work["height"] or int(height * work["width"] / width)
            if work["height"]:
                scale = min(width / size[0], height / size[1])
                left, top = (width - size[0] * scale) / 2, (height - size[1] * scale) / 2
                image = image.crop((round(left), round(top), round(width - left), round(height - top)))
            image = image.resize(size)
            output = io.BytesIO()
            if work["format"] == "jpeg":
                image.save_as_jpeg(output, quality=work["quality"], progressive=True, optimize=True)
            elif work["format"] == "png":
                image.save_as_png(output, optimize=True)
            elif work["format"] == "webp":
                image.save_as_webp(output, quality=work["quality"])
            else:
                image.save_as_avif(output, quality=work["quality"])
            return output.getvalue()

    return render


def main():
    render, work = {"vips": vips, "willow": willow}[sys.argv[1]](), json.loads(sys.argv[2])
    for _ in range(1 if work["repeat"] < 6 else 3):
        made = render(work)
    if work.get("output"):
        with open(work["output"], "wb") as file:
            file.write(made)
    ms = []
    for _ in range(work["repeat"]):
        start = time.perf_counter()
        render(work)
        ms.append(1000 * (time.perf_counter() - start))
    print(json.dumps({"ms": ms, "bytes": len(made)}))


main()
