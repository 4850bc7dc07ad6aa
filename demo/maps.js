// Memory-slot maps: how much each token of the image reads of each memory slot.

/** Return how much the tokens read of a slot, row by row. */
export function slotMap({ slots, side, values }, head, slot) {
  const tokens = side * side;
  const start = (head * slots + slot) * tokens;
  return values.subarray(start, start + tokens);
}

/** Return how much a token reads of each slot; the shares sum to 1. */
export function slotsOfToken({ slots, side, values }, head, token) {
  return Array.from({ length: slots }, (_, slot) => values[(head * slots + slot) * side * side + token]);
}

/** Return how much the tokens read of each slot on average; the shares sum to 1. */
export function meanShares(attention, head) {
  const mean = (map) => map.reduce((a, b) => a + b, 0) / map.length;
  return Array.from({ length: attention.slots }, (_, slot) => mean(slotMap(attention, head, slot)));
}

/** Draw a map over a canvas, as transparent to opaque colour from its smallest to its largest value. */
export function drawMap(canvas, map, side, colour) {
  const grid = new OffscreenCanvas(side, side);
  const context = grid.getContext("2d");
  const pixels = context.createImageData(side, side);
  const low = map.reduce((a, b) => Math.min(a, b)); // Math.min(...map) takes no more than 65,536 values in every browser
  const range = map.reduce((a, b) => Math.max(a, b)) - low || 1;
  map.forEach((value, i) => pixels.data.set([...colour, Math.round((230 * (value - low)) / range)], 4 * i));
  context.putImageData(pixels, 0, 0);
  const target = canvas.getContext("2d");
  target.clearRect(0, 0, canvas.width, canvas.height);
  target.imageSmoothingEnabled = false;
  target.drawImage(grid, 0, 0, canvas.width, canvas.height);
}
