"""Painting on a NumPy canvas: textures, shapes, light and shadow. Used by draw_samples.py.

A canvas is float32 (N, N, 3), 0 to 255. A mask is float32 (N, N), 0 to 1. Positions and lengths are fractions of the side,
y points down.
"""

import numpy as np
from PIL import Image, ImageDraw

N = 1024  # side of the canvas
Y, X = ((np.mgrid[:N, :N] + 0.5) / N).astype(np.float32)


# ---------------------------------------------------------------- backgrounds and textures


def resize(values, size, how=Image.BICUBIC):
    """Resize a float array to size x size."""
    return np.asarray(Image.fromarray(np.asarray(values, np.float32)).resize((size, size), how))


def mix(a, b, t):
    """Blend two colours or canvases by t (0 to 1, a number or a mask)."""
    t = np.clip(t, 0, 1)[..., None] if np.ndim(t) else t
    return (1 - t) * np.asarray(a, np.float32) + t * np.asarray(b, np.float32)


def gradient(*stops):
    """Return a canvas whose colour changes from top to bottom; each stop is (y, colour)."""
    at = [y for y, _ in stops]
    return np.stack([np.interp(Y, at, [c[i] for _, c in stops]) for i in range(3)], -1).astype(np.float32)


def backdrop(colour=(250, 250, 249), fade=0.05):
    """Return an even background, a little darker towards the bottom corners."""
    return np.array(colour, np.float32) * (1 - fade * (Y**2 + (X - 0.5) ** 2))[..., None]


def noise(seed, across, down, octaves=4, fall=0.55):
    """Return cloudy noise of about -1 to 1: `across` by `down` blobs, then finer and fainter ones."""
    rng, total = np.random.default_rng(seed), 0
    for k in range(octaves):
        cells = rng.uniform(-1, 1, (min(down << k, N) + 3, min(across << k, N) + 3)).astype(np.float32)
        total = total + fall**k * np.asarray(Image.fromarray(cells).resize((N, N), Image.BICUBIC))
    return total / (0.9 * sum(fall ** (2 * k) for k in range(octaves)) ** 0.5)


def sample(texture, u, v):
    """Look up the texture at (u, v); outside 0 to 1 it repeats by reflection."""
    u, v = (np.abs((w + 1) % 2 - 1) for w in (u, v))
    return texture[np.minimum((v * N).astype(int), N - 1), np.minimum((u * N).astype(int), N - 1)]


def sky(top, low, horizon, cover, seed):
    """Return a blue sky, lighter near the horizon, with clouds."""
    canvas = gradient((0, top), (horizon, low))
    clouds = np.clip(noise(seed, 3, 6, 5) * 1.3 + 2 * cover - 0.9, 0, 1) * np.clip(1.2 - Y / horizon, 0, 1)
    return paint(canvas, clouds, (248, 249, 252))


def ground(seed, horizon, colours):
    """Return flat ground in perspective, mottled between two colours."""
    far = np.maximum(Y - horizon, 0.004)
    rough = sample(noise(seed, 24, 24, 6, 0.8), (X - 0.5) * 0.1 / far + 0.5, 0.1 / far)
    return mix(*colours, 0.5 + rough * np.clip(far * 3, 0.15, 0.5))


# ---------------------------------------------------------------- shapes: masks from 0 to 1


def ellipse(cx, cy, rx, ry):
    """Return the mask of an ellipse."""
    return np.clip((1 - np.hypot((X - cx) / rx, (Y - cy) / ry)) * min(rx, ry) * N + 0.5, 0, 1)


def box(x0, y0, x1, y1, radius=0.0):
    """Return the mask of a rectangle with rounded corners."""
    image = Image.new("L", (N, N))
    ImageDraw.Draw(image).rounded_rectangle((x0 * N, y0 * N, x1 * N, y1 * N), radius * N, fill=255)
    return np.asarray(image, np.float32) / 255


def strokes(lines):
    """Return mask and canvas of lines and polygons; each is (points, width, colour), width 0 for a filled polygon."""
    image, mask = Image.new("RGB", (N, N)), Image.new("L", (N, N))
    for points, width, colour in lines:
        xy, colour = [(float(x) * N, float(y) * N) for x, y in points], tuple(int(c) for c in np.clip(colour, 0, 255))
        for draw, fill in ((ImageDraw.Draw(image), colour), (ImageDraw.Draw(mask), 255)):
            if width:
                draw.line(xy, fill=fill, width=max(1, round(width * N)), joint="curve")
            else:
                draw.polygon(xy, fill=fill)
    return np.asarray(mask, np.float32) / 255, np.asarray(image, np.float32)


def polygon(*points):
    """Return the mask of a polygon."""
    return strokes([(points, 0, (0, 0, 0))])[0]


def curve(*points, closed=True):
    """Return a smooth (Catmull-Rom) line through the points."""
    p = np.array(points, float)
    p = np.vstack([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    t = np.linspace(0, 1, 13)[:, None]
    return np.vstack(
        [
            0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
            for a, b, c, d in np.stack([p[:-3], p[1:-2], p[2:-1], p[3:]], 1)
        ]
    )


def blob(*points):
    """Return the mask of a smooth closed outline."""
    return polygon(*curve(*points))


def symmetric(*half):
    """Return the mask of a symmetric body from the right half of its outline, top to bottom, with the axis at x = 0.5."""
    return blob(*half, *((1 - x, y) for x, y in half[::-1] if x != 0.5))


def blur(mask, radius):
    """Blur a mask with a Gaussian, computed on a small copy."""
    n, pad = 256, 96
    small = np.pad(resize(mask, n, Image.BOX), pad, mode="edge")
    freq = np.fft.fftfreq(n + 2 * pad)
    kernel = np.exp(-2 * (np.pi * radius * n) ** 2 * (freq[:, None] ** 2 + freq[None, :] ** 2))
    return resize(np.fft.ifft2(np.fft.fft2(small) * kernel).real[pad:-pad, pad:-pad], N)


def noisy_line(seed, across, octaves=4):
    """Return noise that depends on x only."""
    return noise(seed, across, across, octaves)[N // 2][None, :]


# ---------------------------------------------------------------- painting


def paint(canvas, mask, colour):
    """Lay a colour, or another canvas, over the canvas where the mask is."""
    canvas += mask[..., None] * (np.asarray(colour, np.float32) - canvas)
    return canvas


def darken(canvas, mask, strength):
    """Dim the canvas where the mask is; a negative strength brightens it."""
    canvas *= (1 - strength * mask)[..., None]


def shadow(canvas, cx, cy, rx, ry, strength=0.45):
    """Darken the canvas with a soft shadow on the ground."""
    darken(canvas, blur(ellipse(cx, cy, rx, ry), 0.025), strength)


def solid(mask, colour, depth=0.8, gloss=0.4, sharp=30, ambient=0.45):
    """Shade a body with this silhouette that bulges towards the viewer (depth 1: a ball), lit from the upper left.

    The height is the square root of a membrane inflated over the silhouette, solved from coarse to fine.
    """
    height = np.zeros((16, 16))
    for n in (16, 32, 64, 128, 256):
        height, inside = resize(height, n), resize(mask, n, Image.BOX)
        for _ in range(120):
            around = sum(np.roll(height, step, axis) for step in (1, -1) for axis in (0, 1))
            height = inside * (around / 4 + 1 / n**2)
    dy, dx = np.gradient(depth * np.sqrt(np.maximum(height, 1e-5)) * n)
    normal = np.stack([-dx, -dy, np.ones_like(dx)]) / np.sqrt(dx**2 + dy**2 + 1)
    light = np.array((-0.45, -0.6, 0.66))
    half = (light + (0, 0, 1)) / np.linalg.norm(light + (0, 0, 1))
    lit = ambient + (1.15 - ambient) * np.clip(np.tensordot(light, normal, 1), 0, 1)
    spot = gloss * np.clip(np.tensordot(half, normal, 1), 0, 1) ** sharp
    return np.asarray(colour, np.float32) * resize(lit, N)[..., None] + 255 * resize(spot, N)[..., None]
