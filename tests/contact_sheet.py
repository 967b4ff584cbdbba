#!/usr/bin/env python3
"""Makes deploy/operations.jpg, the README's contact sheet: every operation on the same picture, by the built binary.

    tests/contact_sheet.py [--sendimage target/release/sendimage]

Needs Pillow (pip install pillow). The picture is one of the project's own vectors.
"""
import argparse
import pathlib
import subprocess
import tempfile

from PIL import Image, ImageDraw, ImageFont

ROOT = pathlib.Path(__file__).resolve().parent.parent
PHOTO = ROOT / "tests/vectors/images/photo_land.jpg"
CLEAR = ROOT / "tests/vectors/images/rgba.png"
FOCAL = "440,160,120,120"
# Label, source, spec. Each ends small, so that the sheet stays readable.
OPERATIONS = [
    ("original", PHOTO, "width-220"),
    ("width-160", PHOTO, "width-160"),
    ("height-80", PHOTO, "height-80"),
    ("max-120x120", PHOTO, "max-120x120"),
    ("min-120x120", PHOTO, "min-120x120"),
    ("scale-25", PHOTO, "scale-25"),
    ("fill-150x150", PHOTO, "fill-150x150"),
    ("fill-150x150 + focal point", PHOTO, "fill-150x150"),
    ("fill-150x150-c100 + focal", PHOTO, "fill-150x150-c100"),
    ("fill-80x150|smart", PHOTO, "fill-80x150|smart"),
    ("crop-200,100,200,150", PHOTO, "crop-200,100,200,150"),
    ("trim-20", CLEAR, "trim-20|width-180"),
    ("rotate-90", PHOTO, "max-150x150|rotate-90"),
    ("rotate-180", PHOTO, "width-200|rotate-180"),
    ("rotate-270", PHOTO, "max-150x150|rotate-270"),
    ("flip-h", PHOTO, "width-200|flip-h"),
    ("flip-v", PHOTO, "width-200|flip-v"),
    ("pad-150x150", PHOTO, "pad-150x150"),
    ("pad-150x150-ffcc33", PHOTO, "pad-150x150-ffcc33"),
    ("bgcolor-3399ff", CLEAR, "width-180|bgcolor-3399ff"),
    ("blur-4", PHOTO, "width-200|blur-4"),
    ("sharpen-1.5", PHOTO, "width-200|sharpen-1.5"),
    ("grayscale", PHOTO, "width-200|grayscale"),
    ("invert", PHOTO, "width-200|invert"),
    ("watermark-logo", PHOTO, "width-200|watermark-logo"),
    ("width-80|dpr-2", PHOTO, "width-80|dpr-2"),
    ("jpegquality-10", PHOTO, "width-200|format-jpeg|jpegquality-10"),
    ("webpquality-5", PHOTO, "width-200|format-webp|webpquality-5"),
]
COLUMNS, CELL, CAPTION, GAP = 7, (220, 160), 18, 8


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--sendimage", default=ROOT / "target/release/sendimage", type=pathlib.Path)
    arguments.add_argument("--output", default=ROOT / "deploy/operations.jpg", type=pathlib.Path)
    options = arguments.parse_args()
    rows = -(-len(OPERATIONS) // COLUMNS)
    width = COLUMNS * (CELL[0] + GAP) + GAP
    height = rows * (CELL[1] + CAPTION + GAP) + GAP
    sheet = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        config = write_config(folder)
        for index, (label, source, spec) in enumerate(OPERATIONS):
            made = folder / f"{index}.out"
            command = [options.sendimage, "render", source, spec, made, "-c", config]
            if "focal" in label:
                command += ["--focal", FOCAL]
            subprocess.run(command, check=True)
            picture = Image.open(made).convert("RGBA")
            picture.thumbnail(CELL)
            left = GAP + index % COLUMNS * (CELL[0] + GAP)
            top = GAP + index // COLUMNS * (CELL[1] + CAPTION + GAP)
            checkers(sheet, left, top, picture.size)
            sheet.paste(picture, (left, top), picture)
            draw.text((left, top + CELL[1] + 2), label, fill="black", font=font)
    sheet.save(options.output, quality=82)
    print(f"{options.output}: {len(OPERATIONS)} pictures, {options.output.stat().st_size} bytes")


def checkers(sheet, left, top, size, step=8):
    """What a transparent picture is shown on."""
    draw = ImageDraw.Draw(sheet)
    for y in range(0, size[1], step):
        for x in range(0, size[0], step):
            if (x + y) // step % 2:
                corner = (left + min(x + step, size[0]) - 1, top + min(y + step, size[1]) - 1)
                draw.rectangle([(left + x, top + y), corner], fill="#dddddd")


def write_config(folder):
    """A config whose one watermark is painted here."""
    logo = Image.new("RGBA", (240, 80), (0, 0, 0, 0))
    draw = ImageDraw.Draw(logo)
    draw.rounded_rectangle([0, 0, 239, 79], radius=24, fill=(20, 60, 160, 220))
    draw.ellipse([16, 16, 63, 63], fill=(255, 200, 40, 255))
    draw.rectangle([84, 30, 216, 50], fill=(255, 255, 255, 255))
    logo.save(folder / "logo.png")
    config = folder / "sendimage.toml"
    config.write_text(
        f"""[signing]
secret = "0123456789abcdef"
[store]
root = "{folder}/renditions"
[watermarks.logo]
file = "logo.png"
width_percent = 35
"""
    )
    return config


main()
