// Image files to pixels, and messages for those that cannot be read.

const MAX_PIXELS = 120e6;
const MAX_BYTES = 200e6;
const TILE = 4096; // browsers limit the side of a canvas

/** What a person can do something about. */
export class ImageError extends Error {}

/** Decode an image file (a Blob). Returns {width, height, read(x, y, width, height), bitmap}. */
export async function decode(blob) {
  if (blob.size === 0) throw new ImageError("This file is empty.");
  if (blob.size > MAX_BYTES) throw new ImageError("This file is larger than 200 MB. Please use a smaller image.");
  const head = new Uint8Array(await blob.slice(0, 65536).arrayBuffer());
  const claimed = claimedSize(head);
  if (claimed && claimed[0] * claimed[1] > MAX_PIXELS) throw tooLarge(...claimed);
  let bitmap;
  try {
    // Without imageOrientation: EXIF is respected by default, and Safari 16 does not know "from-image".
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch {
    if (isHeic(head)) throw new ImageError("This browser cannot read HEIC photos. Please convert it to JPEG, or take a screenshot of it.");
    throw new ImageError("This file could not be read as an image: it is damaged, or of a kind that browsers do not read.");
  }
  if (bitmap.width * bitmap.height > MAX_PIXELS) throw tooLarge(bitmap.width, bitmap.height);
  return { width: bitmap.width, height: bitmap.height, bitmap, read: reader(bitmap) };
}

function tooLarge(width, height) {
  return new ImageError(`This image has ${Math.round((width * height) / 1e6)} megapixels. Please use one of at most ${MAX_PIXELS / 1e6}.`);
}

/** Return a function that reads a part of a bitmap as RGBA bytes, transparency over white. */
function reader(bitmap) {
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  return (x, y, width, height) => {
    const out = new Uint8ClampedArray(width * height * 4);
    for (let top = 0; top < height; top += TILE) {
      for (let left = 0; left < width; left += TILE) {
        const [w, h] = [Math.min(TILE, width - left), Math.min(TILE, height - top)];
        [canvas.width, canvas.height] = [w, h];
        context.fillStyle = "white";
        context.fillRect(0, 0, w, h);
        context.drawImage(bitmap, x + left, y + top, w, h, 0, 0, w, h);
        const tile = context.getImageData(0, 0, w, h).data;
        for (let row = 0; row < h; row++) out.set(tile.subarray(row * w * 4, (row + 1) * w * 4), ((top + row) * width + left) * 4);
      }
    }
    return out;
  };
}

/** Return the [width, height] that a PNG or JPEG header claims, or null. */
export function claimedSize(head) {
  const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
  if (head.length >= 24 && view.getUint32(0) === 0x89504e47) return [view.getUint32(16), view.getUint32(20)];
  if (head.length < 4 || view.getUint16(0) !== 0xffd8) return null;
  for (let at = 2; at + 9 < head.length && head[at] === 0xff; at += 2 + view.getUint16(at + 2)) {
    const marker = head[at + 1];
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) return [view.getUint16(at + 7), view.getUint16(at + 5)];
  }
  return null;
}

function isHeic(head) {
  const text = String.fromCharCode(...head.subarray(4, 12));
  return text.startsWith("ftyp") && ["heic", "heix", "hevc", "heim", "heis", "mif1", "msf1"].includes(text.slice(4));
}
