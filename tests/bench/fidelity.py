"""How near a rendition is to the reference: the whole source decoded and resized by Pillow's Lanczos, in luma."""

import numpy
from PIL import Image

C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def reference(source, size, fill):
    """All of the source; to fill, the middle of it, as large as the shape of SIZE allows."""
    with Image.open(source) as image:
        width, height = image.size
        scale = min(width / size[0], height / size[1])
        left, top = ((width - size[0] * scale) / 2, (height - size[1] * scale) / 2) if fill else (0, 0)
        image = image.convert("RGBA" if has_alpha(image) else "RGB")
        return luma(image.resize(size, Image.Resampling.LANCZOS, (left, top, width - left, height - top)))


def opened(file):
    with Image.open(file) as image:
        return luma(image)


def luma(image):
    """Over white where it is transparent."""
    if has_alpha(image):
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return numpy.asarray(image.convert("RGB"), numpy.float64) @ [0.299, 0.587, 0.114]


def has_alpha(image):
    return image.mode in ("RGBA", "LA", "PA")


def psnr(one, other):
    return 10 * numpy.log10(255**2 / numpy.mean((one - other) ** 2))


def ssim(one, other):
    """The mean over all windows of 8x8."""
    mean_one, mean_other = windows(one), windows(other)
    variance_one = windows(one * one) - mean_one**2
    variance_other = windows(other * other) - mean_other**2
    covariance = windows(one * other) - mean_one * mean_other
    likeness = (2 * mean_one * mean_other + C1) * (2 * covariance + C2)
    return numpy.mean(likeness / ((mean_one**2 + mean_other**2 + C1) * (variance_one + variance_other + C2)))


def windows(values, side=8):
    """Means of all windows, from sums of sums."""
    sums = numpy.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    return (sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]) / side**2
