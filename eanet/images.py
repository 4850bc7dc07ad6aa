"""Images of any kind to the uint8 RGB square that the model takes."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import warnings

import numpy as np

from eanet.image_limits import NOT_READ, check_cost, check_head, check_regular
from modeling_eanet import EANetConfig, UserError, first_line

UNKNOWN, EMPTY = "unknown image format", "empty file"
LFS_PREFIX = b"version https://git-lfs.github.com/spec/"
LFS_HINT = "a Git LFS pointer, not the data; run `git lfs pull`"
HEIF_HINT = "HEIC, which is read where pillow-heif is installed; `pip install pillow-heif`"
_HEIF_SUFFIXES = (".heic", ".heif", ".hif")
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"hevx", b"mif1", b"msf1")
# Copies and indexes that file managers, archivers and Jupyter make; names that begin with a dot are hidden too.
_HIDDEN = "__macosx|thumbs.db|ehthumbs.db|desktop.ini|icon\r|@eadir|$recycle.bin|system volume information".split("|")

_BAND_PIXELS = 2**22
_LARGE = 100_000_000  # bytes; of images that take more, one is decoded at a time, however many threads there are
_one_large = threading.Lock()


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is to be skipped when a folder is searched for images."""
    return name.startswith(".") or name.lower() in _HIDDEN


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that are read as images, in lower case and with the dot."""
    from PIL import Image

    suffixes = {s for s, name in Image.registered_extensions().items() if name in Image.OPEN and name not in NOT_READ}
    return frozenset(suffixes.union(_HEIF_SUFFIXES))


def register_heif() -> bool:
    """Make Pillow read HEIC and HEIF, if pillow-heif is installed; return whether it does."""
    from PIL import Image

    if "HEIF" not in Image.OPEN:
        try:
            from pillow_heif import register_heif_opener
        except ImportError:
            return False
        register_heif_opener()
    return True


def load_image(source, config: EANetConfig) -> np.ndarray:
    """Load an image and resize it to the model's input.

    Applies the EXIF orientation, puts transparency over white, converts any mode to RGB (deeper pixels scaled to 8 bits),
    takes the first frame of an animation file and makes it a square by `config.resize` and `config.interpolation`.
    Reads what Pillow reads, and HEIC where pillow-heif is installed.

    Args:
        source: path, open binary file, PIL image, or array (height, width, 3) or (height, width). A uint8 array or a float
            or integer array of 0-255; uint16 arrays of 0-65535 are scaled.
        config: size, resize and interpolation.

    Returns:
        uint8 (image_size, image_size, 3).

    Raises:
        OSError: the file cannot be read.
        UserError: not an image, a damaged or empty one, one too large to be trusted, or an array of another shape or scale.
    """
    from PIL import Image

    with _one_line_errors():
        if isinstance(source, Image.Image):
            return _decode(source, config)
        if hasattr(source, "__array__"):
            return _resize(_from_array(np.asarray(source)), config)
        if not isinstance(source, (str, os.PathLike)) and not hasattr(source, "read"):
            raise UserError(f"{type(source).__name__}: must be a path, an open file, a PIL image or an array")
        with _open(source) as image:
            return _decode(image, config)


@contextlib.contextmanager
def _one_line_errors():
    """Silence Pillow's warnings, about metadata and sizes that it handles, and turn its errors into UserError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnidentifiedImageError:
        raise UserError(UNKNOWN) from None
    except Image.DecompressionBombError as error:
        raise UserError(f"too large: {first_line(error)}") from None
    except (UserError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise anything on damaged images, from SyntaxError to struct.error
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(f"damaged image ({first_line(error)})") from None


def decoding_work(source) -> int:
    """Return how much work it is to decode an image file, by its header: see `eanet.image_limits.Cost`.

    Args:
        source: an open binary file, or a PIL image.

    Raises:
        OSError: the file cannot be read.
        UserError: not an image, or one over the limits.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        return check_cost(source).work
    with _one_line_errors(), _open(source) as image:
        return check_cost(image).work


def _open(source):
    """Open an image file. Pillow learns to read HEIC when there is one; what else it does not know gets a reason."""
    from PIL import Image, UnidentifiedImageError

    if isinstance(source, (str, os.PathLike)):
        check_regular(source)
        with open(source, "rb") as file:
            check_head(file)
    elif hasattr(source, "seek"):
        with contextlib.suppress(OSError):  # a stream
            source.seek(0)
            check_head(source)
    _quiet_libtiff()
    try:
        return Image.open(source)
    except UnidentifiedImageError:
        head = _first_bytes(source)
        if head is not None and not head:
            raise UserError(EMPTY) from None
        if head and head.startswith(LFS_PREFIX):
            raise UserError(LFS_HINT) from None
        if not head or head[4:8] != b"ftyp" or head[8:12] not in _HEIF_BRANDS:
            raise
        if not register_heif():
            raise UserError(HEIF_HINT) from None
        return Image.open(source)


@functools.cache
def _quiet_libtiff() -> None:
    """Stop libtiff from printing its errors to standard error; Pillow raises them too."""
    import ctypes

    from PIL import Image

    with contextlib.suppress(OSError, AttributeError):  # Pillow was built without it
        ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


def _first_bytes(source) -> bytes | None:
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            return file.read(64)
    try:
        source.seek(0)
    except (AttributeError, OSError):  # a stream, which Pillow has read to its end
        return None
    return source.read(64)


def _decode(image, config) -> np.ndarray:
    """Decode an opened PIL image, within the limits, and return the square that the model takes."""
    from PIL import Image

    cost = check_cost(image)
    large = cost.memory > _LARGE
    with _one_large if large else contextlib.nullcontext():
        image.load()
        turn, rgb = _turn(image), _to_rgb(image, image.format)
        if turn is None:
            return _resize(rgb, config)
        if large:  # turned at full size, it would take twice the memory
            return np.asarray(Image.fromarray(_resize(rgb, config)).transpose(turn))
        return _resize(rgb.transpose(turn), config)


def _turn(image):
    """Return what makes an image upright, or None. `ImageOps.exif_transpose` re-encodes EXIF, and fails if it is damaged."""
    from PIL.Image import Transpose as Turn

    turns = {2: Turn.FLIP_LEFT_RIGHT, 3: Turn.ROTATE_180, 4: Turn.FLIP_TOP_BOTTOM, 5: Turn.TRANSPOSE,
             6: Turn.ROTATE_270, 7: Turn.TRANSVERSE, 8: Turn.ROTATE_90}  # fmt: skip
    try:
        return turns.get(image.getexif().get(0x0112))
    except Exception:  # the metadata is damaged; the pixels are fine
        return None


def _from_array(array: np.ndarray):
    from PIL import Image

    if array.ndim not in (2, 3) or array.ndim == 3 and array.shape[2] != 3 or 0 in array.shape:
        raise UserError(f"array of shape {array.shape}: must be (height, width, 3) or (height, width)")
    if array.dtype.kind not in "uifb":
        raise UserError(f"array of {array.dtype}: must be numbers from 0 to 255")
    check_scale(array)
    if array.dtype == np.uint16:
        array = array * (255 / _white(array.max(), None))
    elif array.dtype == bool:
        array = array * 255
    return Image.fromarray(_to_uint8(array)).convert("RGB")


def check_scale(array: np.ndarray) -> None:
    """Refuse an array that is not on the 0-255 scale: in 0-1, standardised, or of deeper pixels.

    Its image would be nearly black or white. Values that resampling takes a little beyond the scale are fine, uint16 is
    scaled by `load_image`, and uint8 can hold nothing else.

    Raises:
        UserError: names the range of values and what to do.
    """
    if array.dtype in (np.uint8, np.uint16, bool) or array.dtype.kind not in "iuf" or not array.size:
        return
    finite = array[np.isfinite(array)]
    low, high = finite.min(initial=255), finite.max(initial=0)
    if 0 <= low and 0 < high <= 1:
        hint = "multiply by 255"
    elif low < 0 and high <= 16:
        hint = "undo the normalisation; the model normalises by itself"
    elif high > 2 * 255:
        hint = "scale it down, or give uint16"
    else:
        return
    raise UserError(f"{array.dtype} array with values from {low:.3g} to {high:.3g}: the scale is 0-255; {hint}")


def _to_uint8(values: np.ndarray) -> np.ndarray:
    """Round to uint8; values outside 0-255 are clipped, NaN becomes 0."""
    if values.dtype == np.uint8:
        return values
    return np.rint(np.clip(np.nan_to_num(values.astype(np.float32)), 0, 255)).astype(np.uint8)


def _to_rgb(image, file_format):
    """Convert any mode to RGB, or to L where that gives the same: deep pixels to 8 bits, transparency over white."""
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_to_l(image, file_format)
    if image.has_transparency_data:
        return _by_bands(image, _over_white, "RGB")
    mode = "L" if image.mode in ("1", "L") else "RGB"
    return image if image.mode == mode else _by_bands(image, lambda band: band.convert(mode), mode)


def _over_white(image):
    from PIL import Image

    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _by_bands(image, convert, mode: str):
    """Return `convert(image)`, of `mode`, by some rows at a time: temporary copies stay small."""
    from PIL import Image

    rows = max(1, _BAND_PIXELS // max(1, image.width))
    if image.height <= rows:
        return convert(image)
    out = Image.new(mode, image.size)
    for band in _bands(image, rows):
        out.paste(convert(image.crop(band)), band[:2])
    return out


def _bands(image, rows: int):
    return [(0, top, image.width, min(top + rows, image.height)) for top in range(0, image.height, rows)]


def _deep_to_l(image, file_format):
    """Scale pixels of 16 and 32 bits to 0-255: by their depth, or by their maximum where the depth is not known."""
    from PIL import Image

    def values_of(band):
        return np.nan_to_num(np.array(band, dtype=np.float32))

    rows = max(1, _BAND_PIXELS // max(1, image.width))
    top = max((values_of(image.crop(band)).max(initial=0) for band in _bands(image, rows)), default=0)
    hidden = None
    if image.mode.startswith("I;16") or 255 < top <= 65535:
        white = _white(top, file_format)
        hidden = image.info.get("transparency")
    elif top > 65535 or image.mode == "F" and 0 < top <= 1:
        white = max(top, 1.0)
    else:
        white = 255.0

    def convert(band):
        values = values_of(band)
        if isinstance(hidden, int):
            values[values == hidden] = white
        return Image.fromarray(_to_uint8(values * (255.0 / white)))

    return _by_bands(image, convert, "L")


def _white(top: float, file_format) -> float:
    """Return the value of white for 16-bit pixels up to `top`: cameras and scanners store 10 and 12 bits in 16."""
    if file_format not in (None, "TIFF"):
        return 65535.0
    return next(white for white in (255.0, 1023.0, 4095.0, 65535.0) if top <= white)


def _resize(image, config) -> np.ndarray:
    from PIL import Image

    side = config.image_size
    if 0 in image.size:
        raise UserError(f"image of {image.width} by {image.height} pixels: it is empty")
    size = (side, side)
    if config.resize == "crop":
        shortest = min(image.size)
        left, top = (image.width - shortest) // 2, (image.height - shortest) // 2
        image = image.crop((left, top, left + shortest, top + shortest))
    elif config.resize == "pad":
        size = tuple(max(1, round(side * length / max(image.size))) for length in image.size)
    if image.size != size:
        image = image.resize(size, Image.Resampling[config.interpolation.upper()])
    if size != (side, side):  # beyond the border of an image, Pillow's crop is black
        left, top = (size[0] - side) // 2, (size[1] - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return np.asarray(image.convert("RGB"), dtype=np.uint8)
