// Pillow's antialiased resampling, to the same bytes: in fixed point, one direction after the other, in the order of Pillow 13.
// An image is {width, height, read(x, y, width, height)}, which returns RGBA bytes; canvases have another resampling.

const PRECISION = 22; // bits of a coefficient
const STRIP = 1 << 20; // pixels that are read at a time

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const FILTERS = {
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [
    2,
    (x) => {
      x = Math.abs(x);
      if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
      return x < 2 ? ((x - 5) * x + 8) * x * -0.5 + 2 : 0;
    },
  ],
  lanczos: [3, (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0)],
};

/** Return, for each of `to` pixels, the first source pixel and the fixed-point weights of it and its successors. */
function coefficients(from, to, filter) {
  const scale = from / to;
  if (filter === "nearest") {
    let at = scale * 0.5 - scale; // summed up as Pillow does, which decides ties
    return Array.from({ length: to }, () => ({ first: Math.min(from - 1, Math.floor((at += scale))), weights: [1 << PRECISION] }));
  }
  const [support, weight] = FILTERS[filter];
  const stretch = Math.max(scale, 1);
  return Array.from({ length: to }, (_, i) => {
    const center = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support * stretch + 0.5));
    const last = Math.min(from, Math.trunc(center + support * stretch + 0.5));
    const raw = [];
    for (let x = first; x < last; x++) raw.push(weight((x - center + 0.5) / stretch));
    const sum = raw.reduce((a, b) => a + b, 0);
    const weights = raw.map((w) => {
      const fixed = (sum === 0 ? w : w / sum) * (1 << PRECISION);
      return Math.trunc(fixed + (fixed < 0 ? -0.5 : 0.5));
    });
    return { first, weights: Int32Array.from(weights) };
  });
}

const clip = (sum) => Math.max(0, Math.min(255, sum >> PRECISION));
const HALF = 1 << (PRECISION - 1);

/** Resample the rows of an image to another width. */
function across(image, width, filter) {
  if (image.width === width) return image;
  const steps = coefficients(image.width, width, filter);
  const out = new Uint8Array(image.height * width * 4);
  forEachRow(image, (pixels, start, y) => {
    for (let i = 0, target = y * width * 4; i < width; i++, target += 4) {
      const { first, weights } = steps[i];
      let [r, g, b] = [HALF, HALF, HALF];
      for (let k = 0, at = start + first * 4; k < weights.length; k++, at += 4) {
        r += pixels[at] * weights[k];
        g += pixels[at + 1] * weights[k];
        b += pixels[at + 2] * weights[k];
      }
      out[target] = clip(r);
      out[target + 1] = clip(g);
      out[target + 2] = clip(b);
    }
  });
  return fromPixels(width, image.height, out);
}

/** Resample the columns of an image to another height. */
function down(image, height, filter) {
  if (image.height === height) return image;
  const steps = coefficients(image.height, height, filter);
  const stride = image.width * 4;
  const sums = new Int32Array(height * stride).fill(HALF);
  let begin = 0; // the first output row that is not complete
  forEachRow(image, (pixels, start, y) => {
    while (begin < height && y >= steps[begin].first + steps[begin].weights.length) begin++;
    for (let row = begin; row < height && steps[row].first <= y; row++) {
      const weight = steps[row].weights[y - steps[row].first];
      const target = row * stride;
      for (let i = 0; i < stride; i++) sums[target + i] += pixels[start + i] * weight;
    }
  });
  return fromPixels(image.width, height, Uint8Array.from(sums, clip));
}

/** Call `use(pixels, start, y)` for every row, holding a strip of the image in memory at a time. */
function forEachRow(image, use) {
  const rows = Math.max(1, Math.floor(STRIP / image.width));
  for (let top = 0; top < image.height; top += rows) {
    const count = Math.min(rows, image.height - top);
    const pixels = image.read(0, top, image.width, count);
    for (let y = 0; y < count; y++) use(pixels, y * image.width * 4, top + y);
  }
}

/** Return an image of RGBA pixels in memory; only full rows are read of it. */
function fromPixels(width, height, pixels) {
  return { width, height, read: (x, y, w, h) => pixels.subarray(y * width * 4, (y + h) * width * 4) };
}

/** Resample the part {x, y, width, height} of an image to RGB bytes of another size. */
export function resample(image, part, width, height, filter) {
  const { x, y } = part;
  let result = { width: part.width, height: part.height, read: (left, top, w, h) => image.read(x + left, y + top, w, h) };
  const downFirst = part.height - height > 2 * Math.max(0, part.width - width);
  result = downFirst ? across(down(result, height, filter), width, filter) : down(across(result, width, filter), height, filter);
  const pixels = result.read(0, 0, width, height);
  return Uint8Array.from({ length: width * height * 3 }, (_, i) => pixels[Math.floor(i / 3) * 4 + (i % 3)]);
}

/** Python's round: halves go to the even neighbour. */
function roundHalfEven(x) {
  const floor = Math.floor(x);
  if (x - floor !== 0.5) return Math.round(x);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Return the part of an image that the model sees: {x, y, width, height}. */
export function visiblePart(image, resize) {
  const { width, height } = image;
  if (resize !== "crop") return { x: 0, y: 0, width, height };
  const side = Math.min(width, height);
  return { x: Math.floor((width - side) / 2), y: Math.floor((height - side) / 2), width: side, height: side };
}

/** Make an image the square that the model takes: RGB bytes, side by side, as eanet.images.load_image does. */
export function toSquare(image, { image_size: side, interpolation, resize = "squash" }) {
  const part = visiblePart(image, resize);
  if (resize !== "pad") return resample(image, part, side, side, interpolation);
  const longest = Math.max(image.width, image.height);
  const [width, height] = [image.width, image.height].map((length) => Math.max(1, roundHalfEven((side * length) / longest)));
  const inner = resample(image, part, width, height, interpolation);
  const out = new Uint8Array(side * side * 3);
  const left = -Math.floor((width - side) / 2);
  const top = -Math.floor((height - side) / 2);
  for (let y = 0; y < height; y++) out.set(inner.subarray(y * width * 3, (y + 1) * width * 3), ((top + y) * side + left) * 3);
  return out;
}
