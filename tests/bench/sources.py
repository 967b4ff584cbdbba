"""The photographs that the cold path is measured with, made once in DIRECTORY/sources.

No photograph comes with this repository. One of a Debian package is taken instead, a mountain landscape with rock, grass
and sky; where it cannot be fetched, the sample photo that sendimage draws. Either is brought to 12 megapixels, and gets
a little noise, as a sensor would add it, because scaling took its own away.
"""

import subprocess

from rounds import progress

PACKAGE, PHOTO = "lomiri-wallpapers-16.04", "usr/share/backgrounds/picosdeeuropa_by_Aitzol_Berasategi.jpg"
NOISE = 1.0
MADE = ["12mp.jpg", "progressive.jpg", "24mp.jpg", "12mp.png", "2mp.webp", "2mp.avif"]


def prepare(options):
    """The folder of sources, and a sentence on where they come from."""
    directory = options.directory / "sources"
    said = directory / "origin.txt"
    if not all((directory / name).exists() for name in [*MADE, said.name]):
        progress("making the sources")
        directory.mkdir(parents=True, exist_ok=True)
        photo, origin = fetch(options.directory / "photos"), f"a photograph of the Debian package {PACKAGE}"
        if photo is None:
            photo = options.directory / "photos" / "drawn.jpg"
            origin = "a picture drawn by `sendimage sample-photo`, as no photograph could be fetched"
            subprocess.run([options.sendimage, "sample-photo", photo, "--size", "4000x3000", "--quality", "100"], check=True)
        width, height = write_all(photo, directory)
        said.write_text(
            f"{origin}, {width}x{height}, scaled to 4000x3000 with a little noise added; "
            "24 MP: it and its mirror images side by side"
        )
    return directory, said.read_text()


def fetch(directory):
    """The photograph, unpacked without being installed; nothing where there is no apt, or no such package."""
    photo = directory / PHOTO
    if not photo.exists():
        directory.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=directory, check=True, capture_output=True)
            for file in directory.glob(f"{PACKAGE}_*.deb"):
                subprocess.run(["dpkg-deb", "-x", file, directory], check=True)
        except (OSError, subprocess.CalledProcessError):
            progress(f"{PACKAGE} cannot be fetched")
    return photo if photo.exists() else None


def write_all(photo, directory):
    import numpy
    from PIL import Image, ImageOps

    with Image.open(photo) as opened:
        size, picture = opened.size, opened.convert("RGB")
    picture = ImageOps.fit(picture, (4000, 3000), Image.Resampling.LANCZOS)
    noise = numpy.random.default_rng(1)

    def noisy(image):
        pixels = numpy.asarray(image, numpy.float32)
        # The same for all channels: noise in the colours alone would be lost in 4:2:0.
        pixels = pixels + noise.normal(0, NOISE, (*pixels.shape[:2], 1)).astype(numpy.float32)
        return Image.fromarray(pixels.round().clip(0, 255).astype(numpy.uint8))

    wide = Image.new("RGB", (8000, 6000))
    for x, across in [(0, picture), (4000, ImageOps.mirror(picture))]:
        wide.paste(across, (x, 0))
        wide.paste(ImageOps.flip(across), (x, 3000))
    noisy(wide.crop((1000, 500, 7000, 4500))).save(directory / "24mp.jpg", quality=90, subsampling="4:2:0")
    picture = noisy(picture)
    picture.save(directory / "12mp.jpg", quality=90, subsampling="4:2:0")
    picture.save(directory / "progressive.jpg", quality=90, subsampling="4:2:0", progressive=True)
    small = ImageOps.fit(picture, (1732, 1155), Image.Resampling.LANCZOS)
    small.save(directory / "2mp.webp", quality=85)
    small.save(directory / "2mp.avif", quality=75)
    picture.putalpha(cut_out(picture.size))
    picture.save(directory / "12mp.png")
    return size


def cut_out(size):
    """Alpha of an object on no background: an oval, opaque inside, with a soft edge."""
    import numpy
    from PIL import Image

    x, y = (numpy.linspace(-1, 1, side, dtype=numpy.float32) for side in size)
    distance = numpy.hypot(x[None, :], y[:, None])
    return Image.fromarray((255 * ((1.05 - distance) / 0.1).clip(0, 1)).astype(numpy.uint8))
