"""The figures made of images: answers for the samples, and where the model attends."""

from __future__ import annotations

import numpy as np
from figures_common import canvas, font
from PIL import Image, ImageDraw

from eanet.figures import INK, PIXELS, WIDTH, Drawing, text_size

ANSWERED = ("aquarium_fish", "rocket", "sunflower", "cup", "clock", "orange", "cloud", "skyscraper")
ATTENDED = ("aquarium_fish", "sunflower", "bottle", "rocket")
COLUMNS, GAP = 4, 6  # CSS pixels
STRIP, WHITE, GREEN, AMBER = "#334155", "#ffffff", "#86efac", "#fdba74"
GLOW = (255, 190, 60)


def samples(shipped):
    """Sample images with the model's top answer, its probability, and whether it is right."""
    from eanet import classify

    paths = [shipped.sample(name) for name in ANSWERED]
    answers = [found[0] for found in classify(shipped.model, paths, top_k=1)]
    width, gap = 440, GAP * PIXELS
    side = (width * PIXELS - gap * (COLUMNS - 1)) // COLUMNS
    line = round(1.3 * text_size(width) * PIXELS)
    height = side + 3 * line + gap
    sheet = canvas(width * PIXELS, (height + gap) * -(-len(paths) // COLUMNS) - gap)
    for i, (path, answer) in enumerate(zip(paths, answers, strict=True)):
        at = (i % COLUMNS * (side + gap), i // COLUMNS * (height + gap))
        sheet.paste(_tile(path, answer, side, height, line), at)
    right = sum(answer["label"] == name for answer, name in zip(answers, ANSWERED, strict=True))
    caption = (
        f"Top answer and its probability for {len(paths)} of the sample images, none of them from CIFAR-100; "
        f"{right} of {len(paths)} are right."
    )
    told = (f"{_words(n)}: {_words(a['label'])} {_percent(a['score'])}" for n, a in zip(ANSWERED, answers, strict=True))
    return Drawing(sheet, caption, f"Sample images with the model's answers. {'; '.join(told)}.", photographs=True)


def _tile(path, answer, side, height, line):
    tile = Image.new("RGBA", (side, height), STRIP)
    tile.paste(Image.open(path).convert("RGB").resize((side, side), Image.Resampling.LANCZOS))
    right = answer["label"] == path.stem
    texts = [
        (_words(answer["label"]), WHITE, True),
        (_percent(answer["score"]), WHITE, False),
        ("right" if right else f"wrong: {_words(path.stem)}", GREEN if right else AMBER, False),
    ]
    draw = ImageDraw.Draw(tile)
    for i, (text, colour, bold) in enumerate(texts):
        size = text_size(440)
        while draw.textlength(text, font(size, bold)) > side - 4 * PIXELS:
            size -= 0.5
        middle = side + GAP * PIXELS // 2 + (i + 0.5) * line
        draw.text((side / 2, middle), text, colour, font(size, bold), anchor="mm")
    return tile


def _words(label):
    return label.replace("_", " ")


def _percent(probability):
    return ">99%" if probability > 0.995 else f"{probability:.0%}"


def slots(shipped):
    """What every slot of the clearest head of the first block attends to, for three samples."""
    names = ATTENDED[:3]
    images, maps = shipped.attention(names)
    clear = _clarity(maps[0]).mean(axis=1)
    head = int(clear.argmax())
    weights = maps[0][:, :, :, head]
    count = weights.shape[-1]
    columns, gap = -(-count // 2), GAP * PIXELS
    side = (WIDTH * PIXELS - gap * (columns + 1)) // (columns + 2)
    sheet = canvas(WIDTH * PIXELS, len(names) * 2 * (side + gap) + gap * (len(names) - 1) - gap)
    for i, image in enumerate(images):
        top = i * (2 * side + 3 * gap)
        sheet.paste(_enlarged(image, 2 * side + gap), (0, top))
        for slot in range(count):
            at = (2 + slot % columns) * (side + gap), top + slot // columns * (side + gap)
            sheet.paste(_lit(image, weights[i, :, :, slot] / weights[..., slot].max(), side), at)
    caption = (
        f"What the {count} memory slots of one head attend to (block 0, head {head}): bright where a slot has a large "
        "share of a token's attention. Each slot has the same place in all three examples."
    )
    seen = ", ".join(_words(name) for name in names)
    return Drawing(sheet, caption, f"Attention maps of {count} memory slots for three sample images: {seen}.")


def attention(shipped):
    """One slot per block, the one with the clearest map, for several samples."""
    images, maps = shipped.attention(ATTENDED)
    gap, top = GAP * PIXELS, round(1.5 * text_size() * PIXELS)
    side = (WIDTH * PIXELS - gap * len(maps)) // (len(maps) + 1)
    sheet = canvas(WIDTH * PIXELS, top + len(images) * (side + gap) - gap)
    draw = ImageDraw.Draw(sheet)
    for column in range(len(maps) + 1):
        title = f"block {column - 1}" if column else "image"
        draw.text((column * (side + gap) + side / 2, top / 2.5), title, INK, font(text_size()), anchor="mm")
    for block, a in enumerate(maps):
        head, slot = np.unravel_index(_clarity(a).argmax(), a.shape[3:])
        for i, image in enumerate(images):
            lit = _lit(image, a[i, :, :, head, slot] / a[..., head, slot].max(), side)
            sheet.paste(lit, ((block + 1) * (side + gap), top + i * (side + gap)))
    for i, image in enumerate(images):
        sheet.paste(_enlarged(image, side), (0, top + i * (side + gap)))
    caption = (
        "What one memory slot of each block attends to. A column shows the same slot for all images: the one in this block "
        "whose maps are clearest."
    )
    seen = ", ".join(_words(name) for name in ATTENDED)
    return Drawing(sheet, caption, f"Attention of one slot in each of {len(maps)} blocks for sample images: {seen}.")


def _clarity(maps):
    """How much and how smoothly each map varies: (n, side, side, heads, slots) to (heads, slots)."""
    centred = maps - maps.mean(axis=(1, 2), keepdims=True)
    variance = (centred**2).mean(axis=(1, 2)) + 1e-6
    neighbours = (centred[:, 1:] * centred[:, :-1]).mean(axis=(1, 2)) + (centred[:, :, 1:] * centred[:, :, :-1]).mean(
        axis=(1, 2)
    )
    return (neighbours / (2 * variance)).mean(axis=0) * np.sqrt(variance).mean(axis=0)


def _enlarged(image, side):
    return Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)


def _lit(image, weights, side):
    """A dark grey `image` with a glow where `weights` (0 to 1) are large."""
    weights = np.asarray(_enlarged(np.float32(weights), len(image)))[..., None]
    grey = 16 + 0.28 * image.mean(axis=-1, keepdims=True)
    return _enlarged(np.uint8((1 - weights) * grey + weights * np.array(GLOW)), side)
