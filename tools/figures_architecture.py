"""The diagram of the model: the network on the left, one block with its residual connections on the right."""

from __future__ import annotations

from matplotlib.patches import FancyBboxPatch

from eanet.figures import INK, WIDTH, Drawing, new_figure, rendered

BLUE, ORANGE, GREY, WHITE = "#2563eb", "#c2410c", "#64748b", "#ffffff"  # fills: white text has a contrast of 4.7:1 or more
HEIGHT, LEFT, CENTRE, PART = 680, 192, 318, 42  # CSS pixels; left edge of the block's frame, middle and height of its boxes
ACTIVATIONS = {"relu": "ReLU", "silu": "SiLU", "gelu": "GELU", "gelu_tanh": "GELU"}
DASHED = dict(linewidth=1.2, linestyle=(0, (4, 3)))


def architecture(shipped):
    """Draw the network and a block of it."""
    config = shipped.config
    figure = new_figure(WIDTH, HEIGHT)
    figure.set_layout_engine("none")
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    axis.axis("off")
    _network(axis, config)
    _block(axis, config)
    heads = ", then ".join(f"{h} heads of {s} slots" for h, s in zip(config.num_heads, config.slots, strict=True))
    caption = f"The network (left) and one block (right): two branches, each added to its input. The memory has {heads}."
    alt = "Diagram of the model: stem, stages of blocks, average pooling and classifier; a block has two residual branches."
    return Drawing(rendered(figure), caption, alt)


def _network(axis, config):
    """Draw the left column, with a line from every stage to the block."""
    side = config.image_size // config.patch_size
    size, patch = config.image_size, config.patch_size
    convolutions = "convolutions" if patch > 1 else "convolution"
    stem = f"stem: 3×3\n{convolutions}" if config.tokenizer == "conv" else f"{patch}×{patch}\npatches"
    parts = [("image", GREY, f"{size}×{size}×3"), (stem, BLUE, f"{side}×{side}×{config.embed_dims[0]}")]
    for stage, (depth, dim) in enumerate(zip(config.depths, config.embed_dims, strict=True)):
        if stage:
            side //= 2
            parts.append(("3×3 conv.,\nstride 2", BLUE, f"{side}×{side}×{dim}"))
        parts.append((f"{depth} block{'s' * (depth > 1)}", ORANGE, f"{side}×{side}×{dim}"))
    last = "norm, average,\nclassifier" if config.final_norm else "average,\nclassifier"
    parts.append((last, BLUE, f"{config.num_classes} classes"))
    step, height = (HEIGHT - 12) / len(parts), 56
    for i, (name, colour, shape) in enumerate(parts):
        top = 4 + i * step
        _box(axis, 4, top, 136, height, name, colour)
        axis.text(82, top + (step + height) / 2, shape, va="center")
        _arrow(axis, (72, top + height), (72, top + step))
        if colour == ORANGE:
            axis.plot([144, LEFT], 2 * [top + height / 2], color=INK, **DASHED)


def _block(axis, config):
    """Draw the right column: two residual branches."""
    linear = (
        ("query", "memory keys", "memory values", "output") if config.shared_memory else ("memory keys", "memory values")
    )
    half = len(linear) // 2
    attention = [(name, BLUE) for name in linear]
    attention.insert(half, ("double\nnormalisation", ORANGE))
    activation = ACTIVATIONS[config.activation]
    side, after = config.depthwise_kernel, "" if config.inner_norm else f",\n{activation}"
    mlp = [(f"linear ×{config.mlp_ratio:g}{after}", BLUE), ("linear", BLUE)]
    if side:
        mlp.insert(1, (f"{side}×{side} depthwise\nconvolution" + (f", {activation}" if after else ""), BLUE))
    norm = [] if config.norm == "none" else [(f"{config.norm} norm", GREY)]
    attention = norm + attention + (norm if config.inner_norm else [])
    first = [(f"{name}\n(first stage)", colour) for name, colour in norm]
    active = [(f"{name}, {activation}", colour) for name, colour in norm]
    mlp = [mlp[0], *first, mlp[1], *active, *mlp[2:]] if config.inner_norm else norm + mlp
    style = "round,pad=0,rounding_size=10"
    panel = (LEFT, 4), WIDTH - 4 - LEFT, HEIGHT - 8
    axis.add_patch(FancyBboxPatch(*panel, boxstyle=style, facecolor="none", edgecolor=INK, **DASHED))
    axis.text(LEFT + 14, 26, "one block", va="center")
    count = len(attention) + len(mlp)
    y, gap = 34, (HEIGHT - 106 - count * PART) / (count + 2)
    for name, parts in (("attention branch", attention), ("MLP branch", mlp)):
        y = _branch(axis, y, gap, name, parts)
    _arrow(axis, (CENTRE, y), (CENTRE, HEIGHT - 6))


def _branch(axis, y, gap, name, parts):
    """Draw one residual branch from `y` down and return where it ends."""
    width, height, skip, start = 190, PART, CENTRE + 128, y
    axis.plot([CENTRE, CENTRE], [y - 16, y], color=INK, linewidth=1.6)
    axis.text(skip + 10, y + len(parts) * (height + gap) / 2, name, rotation=90, va="center", ha="left")
    for part, colour in parts:
        _arrow(axis, (CENTRE, y), (CENTRE, y + gap))
        _box(axis, CENTRE - width / 2, y + gap, width, height, part, colour)
        y += gap + height
    _arrow(axis, (CENTRE, y), (CENTRE, y + gap))
    y += gap + 11
    axis.plot([CENTRE, skip, skip], [start, start, y], color=INK, linewidth=1.6)
    _arrow(axis, (skip, y), (CENTRE + 11, y))
    axis.plot(CENTRE, y, "o", markersize=15.5, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1.6)
    axis.plot(CENTRE, y, "+", markersize=9, color=INK, markeredgewidth=1.8)
    return y + 11


def _box(axis, x, y, width, height, text, colour):
    style = "round,pad=0,rounding_size=6"
    axis.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, facecolor=colour, edgecolor="none"))
    axis.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=WHITE, linespacing=1.1)


def _arrow(axis, start, end):
    axis.annotate(
        "", end, start, arrowprops=dict(arrowstyle="-|>", color=INK, linewidth=1.6, shrinkA=0, shrinkB=0, mutation_scale=12)
    )
