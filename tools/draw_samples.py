"""Draw the sample images that are not photographs.

    python tools/draw_samples.py            # rewrite every drawing in samples/
    python tools/draw_samples.py apple sea  # only these

Each image is painted on a 1024 x 1024 canvas and reduced to 256 x 256, so that edges are smooth. The images depend on NumPy
and Pillow only and on no outside material; their noise has fixed seeds, so that a second run draws the same images. Colours
are (red, green, blue), 0 to 255. The drawings are released under CC0-1.0.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import numpy as np
from painting import (
    N,
    X,
    Y,
    backdrop,
    blob,
    blur,
    box,
    curve,
    darken,
    ellipse,
    gradient,
    ground,
    mix,
    noise,
    noisy_line,
    paint,
    polygon,
    resize,
    sample,
    shadow,
    sky,
    solid,
    strokes,
    symmetric,
)
from PIL import Image

SAMPLES = Path(os.path.abspath(__file__)).parent.parent / "samples"
SIZE = 256


def fruit(body, skin, stem=(), leaf=(), width=0.03, gloss=0.4):
    """Draw a fruit on white, with a stem through the points of `stem` and a leaf between the two points of `leaf`."""
    canvas = backdrop()
    shadow(canvas, 0.54, 0.92, 0.33, 0.045)
    paint(canvas, body, solid(body, skin, 0.9, gloss))
    if stem:
        darken(canvas, blur(ellipse(*stem[0], 0.08, 0.025), 0.016) * body, 0.7)
        paint(canvas, *strokes([(curve(*stem, closed=False), width, (92, 66, 36))]))
    if leaf:
        a, b = np.array(leaf)
        side = np.array([-(b - a)[1], (b - a)[0]]) * 0.24
        near, far = 0.7 * a + 0.3 * b, 0.3 * a + 0.7 * b
        blade = blob(a, near + side, far + side, b, far - side, near - side)
        paint(canvas, blade, solid(blade, (66, 122, 44), 0.5, 0.1))
        paint(canvas, *strokes([([a, b], 0.006, (128, 168, 96))]))
    return canvas


def apple():
    """Draw a red apple."""
    streaks = sample(noise(3, 60, 3), np.arctan2(X - 0.5, Y - 0.1) / 3 + 0.5, Y)
    skin = mix((172, 16, 26), (222, 168, 66), 0.8 * blur(ellipse(0.68, 0.38, 0.17, 0.26), 0.09) + 0.12 * streaks)
    body = symmetric(
        (0.5, 0.21),
        (0.60, 0.165),
        (0.76, 0.17),
        (0.89, 0.30),
        (0.91, 0.47),
        (0.85, 0.69),
        (0.74, 0.86),
        (0.61, 0.92),
        (0.5, 0.90),
    )
    return fruit(body, skin, ((0.5, 0.225), (0.505, 0.15), (0.55, 0.06)), ((0.51, 0.16), (0.76, 0.06)), gloss=0.5)


def orange():
    """Draw an orange with a leaf."""
    skin = mix((232, 118, 8), (255, 150, 20), 0.5 + 0.3 * noise(6, 4, 4)) * (1 + 0.1 * noise(5, 90, 90, 2))[..., None]
    return fruit(ellipse(0.5, 0.53, 0.415, 0.40), skin, ((0.47, 0.18), (0.47, 0.155)), ((0.47, 0.175), (0.76, 0.08)))


def pear():
    """Draw a green pear."""
    skin = mix((168, 178, 48), (214, 188, 62), 0.5 + 0.8 * (X - 0.4) + 0.25 * noise(8, 5, 5))
    skin = mix(skin, (140, 106, 40), 0.5 * (noise(9, 70, 70, 2) > 0.85))
    body = symmetric(
        (0.5, 0.14),
        (0.56, 0.15),
        (0.61, 0.22),
        (0.64, 0.34),
        (0.70, 0.47),
        (0.80, 0.62),
        (0.81, 0.77),
        (0.73, 0.90),
        (0.60, 0.945),
        (0.5, 0.935),
    )
    return fruit(body, skin, ((0.5, 0.15), (0.505, 0.09), (0.545, 0.03)))


def sweet_pepper():
    """Draw a red sweet pepper."""
    canvas = backdrop()
    shadow(canvas, 0.54, 0.92, 0.34, 0.045)
    side = np.array(
        [(0.5, 0.25), (0.68, 0.19), (0.85, 0.25), (0.90, 0.44), (0.83, 0.68), (0.74, 0.87), (0.63, 0.90), (0.53, 0.7)]
    )
    middle = symmetric((0.5, 0.24), (0.62, 0.25), (0.69, 0.42), (0.66, 0.68), (0.60, 0.90), (0.5, 0.94))
    for lobe in (blob(*side), blob(*((1, 0) + side * (-1, 1))), middle):
        darken(canvas, blur(lobe, 0.02) * (1 - lobe) * (canvas[..., 1] < 120), 0.7)
        paint(canvas, lobe, solid(lobe, (206, 22, 18), 0.9, 0.7, 45, ambient=0.36))
    cap = symmetric((0.5, 0.20), (0.58, 0.19), (0.65, 0.25), (0.57, 0.28), (0.5, 0.31))
    paint(canvas, cap, solid(cap, (78, 132, 44), 0.6, 0.1))
    stem = blob((0.47, 0.26), (0.468, 0.16), (0.51, 0.06), (0.575, 0.08), (0.532, 0.17), (0.53, 0.26))
    return paint(canvas, stem, solid(stem, (92, 146, 52), 0.9, 0.15))


def bottle():
    """Draw a wine bottle."""
    canvas = backdrop()
    shadow(canvas, 0.53, 0.955, 0.2, 0.025)
    glass = symmetric(
        (0.5, 0.03),
        (0.553, 0.03),
        (0.555, 0.06),
        (0.553, 0.20),
        (0.562, 0.28),
        (0.63, 0.37),
        (0.662, 0.45),
        (0.665, 0.60),
        (0.665, 0.90),
        (0.655, 0.955),
        (0.60, 0.965),
        (0.5, 0.966),
    )
    across = np.clip((X - 0.5) / np.clip(0.055 + (Y - 0.24) * 0.58, 0.055, 0.165), -1, 1)
    body = mix((16, 34, 20), (62, 98, 48), 0.9 * np.exp(-(((across - 0.15) / 0.45) ** 2)))
    shine = 0.75 * np.exp(-(((across + 0.62) / 0.1) ** 2)) + 0.3 * np.exp(-(((across - 0.72) / 0.08) ** 2))
    paint(canvas, glass, mix(body, (226, 238, 228), shine))
    drum = (1.0 - 0.45 * np.abs(across + 0.2) ** 2.2)[..., None]
    paint(canvas, glass * (Y > 0.54) * (Y < 0.82), np.array((240, 230, 204)) * drum)
    paint(canvas, glass * (np.abs(np.abs(Y - 0.68) - 0.103) < 0.008), np.array((166, 126, 50)) * drum)
    paint(canvas, ellipse(0.5, 0.68, 0.055, 0.045), np.array((120, 24, 34)) * drum)
    foil = mix((110, 14, 26), (232, 160, 165), np.exp(-(((across + 0.5) / 0.2) ** 2)))
    return paint(canvas, glass * (Y < 0.17), foil)


def clock():
    """Draw a wall clock."""
    canvas = backdrop((238, 236, 230), 0.08)
    darken(canvas, blur(ellipse(0.53, 0.55, 0.43, 0.43), 0.03), 0.5)
    lit = (X + Y - 1) / np.maximum(np.hypot(X - 0.5, Y - 0.5), 0.02)
    paint(canvas, ellipse(0.5, 0.5, 0.455, 0.455), mix((30, 30, 34), (120, 122, 128), 0.45 - 0.4 * lit))
    face = ellipse(0.5, 0.5, 0.385, 0.385)
    paint(canvas, face, mix((252, 251, 246), (226, 224, 216), Y))
    darken(canvas, blur(face * (1 - ellipse(0.51, 0.52, 0.385, 0.385)), 0.01), 0.4)

    def ray(degrees, near, far, width, colour=(20, 20, 24)):
        direction = np.array([np.sin(np.radians(degrees)), -np.cos(np.radians(degrees))])
        return ([0.5 + near * direction, 0.5 + far * direction], width, colour)

    marks = [ray(6 * k, 0.34, 0.36, 0.005) for k in range(60)]
    marks += [ray(30 * k, 0.29 - 0.02 * (k % 3 == 0), 0.36, 0.018 + 0.014 * (k % 3 == 0)) for k in range(12)]
    paint(canvas, *strokes(marks))
    red = ray(200, -0.08, 0.32, 0.008, (190, 30, 30))
    hands = strokes([ray(305, -0.05, 0.20, 0.032), ray(54, -0.06, 0.31, 0.022), red])
    darken(canvas, blur(np.roll(hands[0], (14, 14), (0, 1)), 0.008), 0.35)
    paint(canvas, *hands)
    return paint(canvas, ellipse(0.5, 0.5, 0.025, 0.025), (24, 24, 28))


def television():
    """Draw a flat television set."""
    canvas = backdrop()
    shadow(canvas, 0.5, 0.875, 0.33, 0.025)
    neck = polygon((0.45, 0.74), (0.55, 0.74), (0.57, 0.86), (0.43, 0.86))
    paint(canvas, neck, gradient((0.74, (18, 18, 20)), (0.86, (60, 60, 66))))
    paint(canvas, ellipse(0.5, 0.865, 0.26, 0.03), gradient((0.83, (84, 84, 90)), (0.9, (18, 18, 20))))
    frame = gradient((0.14, (58, 58, 62)), (0.17, (22, 22, 25)), (0.78, (14, 14, 16)))
    paint(canvas, box(0.03, 0.14, 0.97, 0.78, 0.012), frame)
    screen = box(0.06, 0.17, 0.94, 0.735)
    paint(canvas, screen, gradient((0.17, (52, 66, 88)), (0.735, (20, 24, 34))))
    glare = polygon((0.06, 0.17), (0.62, 0.17), (0.30, 0.735), (0.06, 0.735))
    darken(canvas, blur(glare, 0.004) * screen * (1.3 - Y), -0.55)
    return paint(canvas, ellipse(0.5, 0.758, 0.03, 0.007), (150, 150, 156))


def wardrobe():
    """Draw a wooden wardrobe with two doors."""
    canvas = backdrop((246, 244, 240), 0.06)
    shadow(canvas, 0.52, 0.955, 0.36, 0.02)
    grain = sample(noise(13, 40, 2, 5, 0.7), X + 0.02 * noise(14, 3, 3, 2), Y)
    wood = mix((124, 72, 36), (176, 112, 60), 0.5 + 0.4 * grain) * (1.1 - 0.25 * X)[..., None]
    for rectangle, tone in (
        ((0.19, 0.07, 0.81, 0.94), 0.8),
        ((0.16, 0.045, 0.84, 0.085), 1.12),
        ((0.17, 0.085, 0.83, 0.095), 0.5),
        ((0.18, 0.90, 0.82, 0.95), 0.7),
    ):
        paint(canvas, box(*rectangle), wood * tone)
    for x0, x1, knob in ((0.205, 0.494, 0.465), (0.506, 0.795, 0.535)):
        paint(canvas, box(x0 - 0.006, 0.104, x1 + 0.006, 0.896), wood * 0.3)
        paint(canvas, box(x0, 0.11, x1, 0.89), wood)
        for y0, y1 in ((0.15, 0.44), (0.49, 0.85)):
            paint(canvas, box(x0 + 0.045, y0, x1 - 0.045, y1), wood * 0.5)
            paint(canvas, box(x0 + 0.055, y0 + 0.012, x1 - 0.043, y1 + 0.002), wood * 1.25)
            paint(canvas, box(x0 + 0.055, y0 + 0.012, x1 - 0.053, y1 - 0.008), wood * 0.94)
        paint(canvas, ellipse(knob, 0.485, 0.014, 0.02), (214, 186, 110))
    return canvas


def keyboard():
    """Draw a computer keyboard."""
    canvas = backdrop((244, 244, 244), 0.08)
    darken(canvas, blur(box(0.03, 0.22, 0.99, 0.82, 0.02), 0.02), 0.5)
    paint(canvas, box(0.015, 0.18, 0.985, 0.79, 0.02), gradient((0.18, (56, 56, 60)), (0.79, (26, 26, 29))))
    rows = (
        [1] * 13,
        [1] * 11 + [2],
        [1.5] + [1] * 10 + [1.5],
        [1.8] + [1] * 9 + [2.2],
        [2.3] + [1] * 8 + [2.7],
        [1.4, 1.2, 1.4, 5.4, 1.2, 1.2, 1.2],
    )
    for r, widths in enumerate(rows):
        x, y, unit = 0.03, 0.196 + 0.097 * r, 0.94 / 13
        for width in widths:
            tone = 104 if width == 1 else 86
            end = x + width * unit
            paint(canvas, box(x + 0.004, y + 0.003, end - 0.004, y + 0.092, 0.009), (12, 12, 13))
            paint(canvas, box(x + 0.010, y + 0.005, end - 0.010, y + 0.076, 0.009), (tone, tone + 1, tone + 5))
            if width == 1:
                paint(canvas, box(x + 0.023, y + 0.018, x + 0.038, y + 0.042, 0.004), (200, 200, 204))
            x = end
    return canvas


def sunflower():
    """Draw a sunflower."""
    canvas = gradient((0, (88, 148, 214)), (1, (170, 202, 228)))
    leaves = mix((38, 74, 24), (112, 150, 58), 0.5 + 0.6 * noise(21, 14, 14, 3))
    paint(canvas, np.clip((Y - 0.72) * 6 + 0.5 * noise(22, 5, 5), 0, 1), leaves)
    rng, middle = np.random.default_rng(23), np.array((0.5, 0.47))
    petals = [([(0.5, 0.6), (0.51, 1.02)], 0.05, (86, 122, 48))]
    for ring, (count, length) in enumerate(((22, 0.455), (20, 0.43), (17, 0.385))):
        for k in range(count):
            angle = 2 * np.pi * (k + ring / 3) / count + rng.normal(0, 0.05)
            along, side = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
            tip, wide = length * rng.uniform(0.92, 1.05), 0.05 * rng.uniform(0.85, 1.15)
            outline = curve(
                *(
                    middle + r * tip * along + s * wide * side
                    for r, s in ((0.3, 0), (0.5, 0.8), (0.75, 0.85), (1, 0), (0.75, -0.85), (0.5, -0.8))
                )
            )
            tone = np.array((255, 208, 20)) * (0.80 + 0.1 * ring + rng.uniform(-0.07, 0.06))
            petals += [
                (outline, 0, tone),
                (outline, 0.004, tone * 0.75),
                ([middle + 0.3 * tip * along, middle + 0.9 * tip * along], 0.005, tone * 0.86),
            ]
    far = np.hypot(X - 0.5, Y - 0.47)
    mask, colour = strokes(petals)
    paint(canvas, mask, colour * np.clip(0.72 + 1.4 * (far - 0.14), 0.7, 1.1)[..., None])
    disc = ellipse(0.5, 0.47, 0.185, 0.185)
    paint(canvas, blur(disc, 0.012), mix((58, 34, 16), (122, 76, 26), np.clip((far - 0.07) * 9, 0, 1)))
    spiral = [(middle + 0.0088 * k**0.5 * np.array((np.cos(2.4 * k), np.sin(2.4 * k))), k) for k in range(430)]
    paint(
        canvas,
        *strokes(
            [([at - (0.003, 0), at + (0.003, 0)], 0.006, (176, 122, 44) if k > 150 else (96, 70, 30)) for at, k in spiral]
        ),
    )
    darken(canvas, disc * np.clip(X + Y - 0.97, 0, 1), 0.9)
    return canvas


def aquarium_fish():
    """Draw a goldfish."""
    canvas = mix((8, 44, 60), (30, 98, 110), 0.9 - 0.8 * Y + 0.3 * noise(121, 4, 4, 3))
    gravel = mix((56, 50, 40), (134, 122, 96), 0.5 + 0.5 * noise(122, 40, 40, 3))
    paint(canvas, np.clip((Y - 0.90 - 0.015 * noise(123, 6, 6)) * 60, 0, 1), gravel)
    fins = (
        blob(
            (0.68, 0.49),
            (0.80, 0.34),
            (0.95, 0.24),
            (0.97, 0.34),
            (0.90, 0.48),
            (0.97, 0.62),
            (0.94, 0.74),
            (0.80, 0.62),
            (0.68, 0.54),
        ),
        blob((0.30, 0.36), (0.36, 0.20), (0.46, 0.15), (0.60, 0.22), (0.66, 0.34), (0.60, 0.42)),
        blob((0.38, 0.64), (0.42, 0.80), (0.52, 0.84), (0.52, 0.68)),
        blob((0.56, 0.62), (0.64, 0.76), (0.70, 0.74), (0.66, 0.58)),
    )
    rays = (1 + 0.12 * np.sin(90 * np.arctan2(Y - 0.5, X - 0.45)))[..., None]
    for fin in fins:
        paint(canvas, 0.9 * blur(fin, 0.003), solid(fin, (250, 138, 30), 0.3, 0.05, ambient=0.6) * rays)
    body = blob(
        (0.05, 0.48),
        (0.12, 0.37),
        (0.28, 0.29),
        (0.46, 0.29),
        (0.62, 0.39),
        (0.75, 0.48),
        (0.75, 0.55),
        (0.62, 0.62),
        (0.45, 0.70),
        (0.26, 0.68),
        (0.12, 0.59),
    )
    scales = np.sin(110 * X + 40 * Y) * np.sin(110 * X - 90 * Y) * np.clip((X - 0.24) * 10, 0, 1)
    skin = mix((250, 100, 14), (255, 206, 120), (Y - 0.50) * 3.2) * (1 + 0.09 * scales)[..., None]
    paint(canvas, body, solid(body, skin, 0.7, 0.35, 25, ambient=0.55))
    paint(canvas, *strokes([(curve((0.26, 0.37), (0.29, 0.48), (0.26, 0.60), closed=False), 0.010, (190, 70, 12))]))
    fin = blob((0.33, 0.54), (0.44, 0.54), (0.47, 0.62), (0.40, 0.63))
    paint(canvas, fin * 0.85, solid(fin, (255, 170, 70), 0.5, 0.1))
    for radius, colour in ((0.036, (250, 220, 150)), (0.025, (16, 14, 18))):
        paint(canvas, ellipse(0.155, 0.45, radius, radius), colour)
    return paint(canvas, ellipse(0.147, 0.441, 0.008, 0.008), (255, 255, 255))


def sea():
    """Draw the open sea and the horizon."""
    canvas = sky((96, 150, 210), (206, 222, 232), 0.42, 0.45, 52)
    far = np.maximum(Y - 0.40, 0.003)
    u, v = (X - 0.5) * 0.16 / far + 0.5, 0.12 / far
    swell = sample(noise(53, 6, 22, 6, 0.7), u, v)
    water = gradient((0.40, (72, 122, 156)), (0.6, (34, 98, 142)), (1, (14, 70, 112)))
    water *= (1 + 0.38 * np.clip(far * 6, 0.12, 1) * swell)[..., None]
    foam = np.clip((swell + 0.5 * sample(noise(54, 30, 60, 4, 0.8), u, v) - 0.95) * 3, 0, 0.9) * np.clip(far * 5, 0, 1)
    return paint(canvas, np.clip((Y - 0.40) * 400, 0, 1), paint(water, foam, (232, 242, 246)))


def plain():
    """Draw grassland under a wide sky."""
    canvas = sky((92, 146, 212), (216, 228, 236), 0.52, 0.4, 63)
    far = np.clip((Y - 0.48) * 2, 0, 1)
    grass = mix((166, 164, 104), ground(61, 0.48, ((142, 132, 56), (194, 180, 94))), far * 4)
    darken(grass, far * (1 + 0.6 * noise(62, 160, 26, 3)), 0.3)
    return paint(canvas, np.clip((Y - 0.50 - 0.004 * noisy_line(64, 6)) * 300, 0, 1), grass)


def cloud():
    """Draw a white cloud in a blue sky."""
    canvas = gradient((0, (36, 92, 178)), (1, (124, 174, 224)))
    puffs = (
        (0.5, 0.5, 0.25),
        (0.30, 0.57, 0.19),
        (0.71, 0.57, 0.2),
        (0.40, 0.38, 0.17),
        (0.60, 0.36, 0.16),
        (0.15, 0.63, 0.12),
        (0.87, 0.63, 0.12),
        (0.5, 0.63, 0.2),
    )
    billow = 0.5 * noise(72, 6, 6, 7, 0.62)
    mass = sum(np.exp(-(((X - x) / r) ** 2) - ((Y - y) / r / 0.85) ** 2) for x, y, r in puffs)
    dense = np.clip((mass + 0.55 * billow - 0.62) * 2.2, 0, 1) * np.clip((0.80 - Y + 0.05 * billow) * 7, 0, 1)
    height = mass + 0.9 * billow
    lit = np.clip(0.6 + 3 * (np.roll(height, (-40, -26), (0, 1)) - height), 0, 1)
    paint(canvas, np.clip(noise(73, 2, 9, 6) - 0.5, 0, 0.5), (240, 245, 252))
    return paint(canvas, dense, mix((150, 164, 190), (255, 255, 255), 0.35 + lit * np.clip(1.5 - 1.5 * Y, 0.15, 0.9)))


def mountain():
    """Draw a snowy peak above a forest."""
    canvas = sky((66, 124, 198), (188, 212, 232), 0.7, 0, 80)
    ridge, crack = noisy_line(81, 5, 7), noisy_line(86, 7, 6).T
    for base, peak, slope, dark, light, snow in (
        (0.42, 0.25, 0.45, (88, 104, 134), (136, 152, 178), 0.42),
        (0.14, 0.52, 1.03, (50, 54, 66), (142, 134, 128), 0.47),
    ):
        top = base + slope * np.abs(X - peak) ** 0.9 + 0.05 * ridge * (0.3 + 2 * np.abs(X - peak))
        split = X - peak - (0.10 * crack + 0.1) * np.clip((Y - base) * 4, 0, 1)
        crag = sample(noise(82, 12, 9, 7, 0.68), X + 0.35 * np.clip((X - peak) * 9, -1, 1) * Y, Y * 0.8)
        face = np.clip(0.5 + 0.42 * crag - np.clip(split * 4, -0.3, 0.35), 0, 1)
        cover = np.clip((snow + 0.14 * crag - (Y - 0.25 * (top - base))) * 14, 0, 1)
        rock = paint(mix(dark, light, face), cover, mix((146, 168, 204), (252, 253, 255), face * 1.3))
        paint(canvas, np.clip((Y - top) * 300, 0, 1), rock)
    woods = np.clip((Y - 0.80 - 0.04 * noisy_line(83, 4) - 0.018 * noisy_line(84, 60, 3)) * 200, 0, 1)
    return paint(canvas, woods, mix((22, 40, 26), (64, 88, 44), 0.3 + 0.5 * noise(85, 60, 30, 3) + 1.5 * (Y - 0.85)))


def road():
    """Draw a straight country road."""
    canvas = sky((84, 142, 210), (214, 226, 234), 0.46, 0.42, 93)
    hills = mix((96, 120, 120), (126, 140, 110), 0.5 + 0.4 * noise(92, 20, 20, 3))
    paint(canvas, np.clip((Y - 0.40 - 0.03 * noisy_line(91, 3)) * 200, 0, 1), hills)
    far, below = np.maximum(Y - 0.44, 0.002), np.clip((Y - 0.445) * 300, 0, 1)
    paint(canvas, below, ground(94, 0.44, ((112, 118, 50), (168, 156, 88))))
    asphalt = mix((94, 95, 99), (122, 122, 124), 0.5 + 0.5 * noise(95, 120, 120, 3))
    white, dashes = (232, 232, 228), (0.28 / far) % 1 < 0.62
    for at, half, colour, where in (
        (0, 0.98, (150, 140, 112), 1),
        (0, 0.86, asphalt, 1),
        (-0.78, 0.022, white, 1),
        (0.78, 0.022, white, 1),
        (0, 0.03, (240, 196, 44), dashes),
    ):
        across = np.abs((X - 0.5) / far - at)
        paint(canvas, below * where * np.clip((half - across) * far * N / 4 + 0.5, 0, 1), colour)
    return canvas


def skyscraper():
    """Draw a glass office tower."""
    canvas = sky((62, 122, 200), (196, 218, 236), 1.0, 0.25, 101)
    for x, y, width, tone in (
        (0, 0.80, 0.16, 120),
        (0.13, 0.72, 0.13, 146),
        (0.74, 0.75, 0.14, 138),
        (0.86, 0.68, 0.16, 112),
    ):
        windows = np.where((X * 46 % 1 > 0.35) & (Y * 60 % 1 > 0.4), 0.8, 1.0)[..., None]
        paint(canvas, box(x, y, x + width, 1.02), np.array((tone, tone + 4, tone + 10)) * windows)
    glass = mix((58, 88, 122), (168, 200, 224), 0.8 - 0.75 * Y + 0.25 * noise(102, 3, 5, 3))
    for x0, x1, y0, y1, lean0, lean1, tone, columns in (
        (0.26, 0.59, 0.09, 0.04, -0.02, 0, 1.0, 7),
        (0.59, 0.75, 0.04, 0.11, 0, 0.02, 0.55, 4),
    ):
        across = (X - x0 - lean0 * Y) / (x1 + lean1 * Y - x0 - lean0 * Y)
        roof = y0 + (y1 - y0) * across
        floors = (Y - roof) / (1.02 - roof) * 22 % 1
        frame = 1.0 * ((across * columns % 1 < 0.2) | (floors < 0.34))
        side = polygon((x0 + lean0 * y0, y0), (x1 + lean1 * y1, y1), (x1 + lean1, 1.02), (x0 + lean0, 1.02))
        paint(canvas, side, paint(glass * tone, frame, np.array((212, 218, 224)) * tone))
    return canvas


DRAWINGS = (
    apple,
    aquarium_fish,
    bottle,
    clock,
    cloud,
    keyboard,
    mountain,
    orange,
    pear,
    plain,
    road,
    sea,
    skyscraper,
    sunflower,
    sweet_pepper,
    television,
    wardrobe,
)


def finish(canvas, seed):
    """Reduce the canvas to an image of `SIZE` pixels, with the slight grain of a photograph."""
    image = np.stack([resize(np.clip(canvas[..., i], 0, 255), SIZE, Image.LANCZOS) for i in range(3)], -1)
    grain = np.random.default_rng(seed).normal(0, 1.6, (SIZE, SIZE, 1))
    return Image.fromarray(np.clip(image + grain + 0.5, 0, 255).astype(np.uint8))


def main(names) -> int:
    """Draw the images called `names`, or all of them if it is empty."""
    drawings = {draw.__name__: draw for draw in DRAWINGS}
    unknown = [name for name in names if name not in drawings]
    if unknown:
        print(f"draw_samples.py: error: {unknown[0]}: must be one of {', '.join(drawings)}", file=sys.stderr)
        return 2
    for seed, (name, draw) in enumerate(drawings.items()):
        if not names or name in names:
            finish(draw(), seed).save(SAMPLES / f"{name}.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
