// The page: choosing an image, showing the answer, and the memory-slot maps.
import { loadClassifier } from "./classifier.js";
import { decode, ImageError } from "./decode.js";
import { drawMap, meanShares, slotMap, slotsOfToken } from "./maps.js";
import { visiblePart } from "./resize.js";

const COLOUR = [255, 196, 0]; // of the maps, over the darkened image
const $ = (id) => document.getElementById(id);
const state = { classifier: null, result: null, image: null, token: 0, turn: 0 };

function say(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

/** Say how far the page is: "loading", "ready" or "busy". */
const become = (what) => (document.querySelector("main").dataset.state = what);

const readable = (label) => label.replaceAll("_", " ");
const stem = (name) => readable(name.replace(/\.\w+$/, ""));

function percent(share) {
  if (share > 0.995) return ">99%";
  return share < 0.0005 ? "<0.1%" : `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)}%`;
}

function element(tag, text = "", properties = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, properties);
}

// Images ----------------------------------------------------------------------------------------------------------------

/** Classify an image, a Blob or a promise of one, and show the answer; a later call wins over an earlier one that takes longer. */
async function show(blob, name) {
  const turn = ++state.turn;
  become("busy");
  const slow = setTimeout(() => turn === state.turn && say(state.classifier ? "Classifying …" : "Loading the model …"), 300);
  for (const button of document.querySelectorAll("#samples button")) button.setAttribute("aria-pressed", button.dataset.name === name);
  try {
    const image = await decode(await blob);
    const classifier = await ready;
    const result = await classifier.classify(image);
    if (turn !== state.turn) return;
    state.image?.bitmap.close?.();
    Object.assign(state, { image, result });
    drawImage(name);
    showAnswers();
    showMaps();
  } catch (error) {
    if (turn !== state.turn) return;
    say(error instanceof ImageError || !state.classifier ? error.message : `The model failed (${error.message}).`, true);
    if (!(error instanceof ImageError)) console.error(error);
    $("answers").replaceChildren();
    $("maps").hidden = $("image").hidden = true;
  } finally {
    clearTimeout(slow);
    if (turn === state.turn) become("ready");
  }
}

/** Draw the part of the image that the model sees, squashed as for the model, in the page and under the maps. */
function drawImage(name) {
  const canvas = $("image");
  const context = canvas.getContext("2d");
  const { resize } = state.classifier.config;
  const part = visiblePart(state.image, resize);
  context.fillStyle = "black"; // the bars of "pad"
  context.fillRect(0, 0, canvas.width, canvas.height);
  const longest = Math.max(part.width, part.height);
  const [width, height] = resize === "pad" ? [(canvas.width * part.width) / longest, (canvas.height * part.height) / longest] : [canvas.width, canvas.height];
  context.imageSmoothingQuality = "high";
  const place = [(canvas.width - width) / 2, (canvas.height - height) / 2, width, height];
  context.fillStyle = "white"; // what is transparent, for the model too
  context.fillRect(...place);
  context.drawImage(state.image.bitmap, part.x, part.y, part.width, part.height, ...place);
  canvas.setAttribute("aria-label", name ? `The image ${stem(name)}` : "Your image");
  canvas.hidden = false;
  $("backdrop").getContext("2d").drawImage(canvas, 0, 0);
}

function showAnswers() {
  const { scores, milliseconds } = state.result;
  const best = state.classifier.top(scores, 5);
  $("answers").replaceChildren(
    ...best.map(({ label, score }) => {
      const item = element("li");
      item.style.setProperty("--share", `${100 * score}%`);
      Object.assign(item.dataset, { label, score });
      item.append(element("span", readable(label)), element("span", percent(score), { className: "score" }));
      return item;
    }),
  );
  say(`${readable(best[0].label)}, ${percent(best[0].score)}. Computed here in ${Math.max(1, Math.round(milliseconds))} ms.`);
}

// Memory-slot maps ------------------------------------------------------------------------------------------------------

const chosen = () => ({
  attention: state.result.attention[$("block").selectedIndex],
  head: $("head").selectedIndex,
  slot: Number(document.querySelector("#slots input:checked")?.value ?? 0),
});

function fill(select, count) {
  if (select.length === count) return;
  const index = Math.min(Math.max(select.selectedIndex, 0), count - 1);
  select.replaceChildren(...Array.from({ length: count }, (_, i) => new Option(String(i + 1), String(i))));
  select.selectedIndex = index;
}

function showMaps() {
  const blocks = state.result.attention;
  $("maps").hidden = blocks.length === 0;
  if (blocks.length === 0) return;
  fill($("block"), blocks.length);
  fill($("head"), chosen().attention.heads);
  const { attention, head, slot } = chosen();
  if ($("slots").children.length !== attention.slots) {
    const selected = Math.min(slot, attention.slots - 1);
    $("slots").replaceChildren(...Array.from({ length: attention.slots }, (_, i) => slotChoice(i, i === selected)));
  }
  [...$("slots").children].forEach((choice, i) => drawMap(choice.querySelector("canvas"), slotMap(attention, head, i), attention.side, COLOUR));
  state.token = Math.min(state.token, attention.side ** 2 - 1);
  leaveToken();
}

function slotChoice(index, checked) {
  const label = element("label", "", { className: "slot" });
  const canvas = element("canvas", "", { width: 64, height: 64 });
  canvas.setAttribute("aria-hidden", "true");
  const input = element("input", "", { type: "radio", name: "slot", value: index, checked });
  label.append(input, canvas, element("span", `Slot ${index + 1}`), element("span", "", { className: "share" }));
  return label;
}

function drawOverlay(withToken = false) {
  const { attention, head, slot } = chosen();
  const canvas = $("overlay");
  const context = canvas.getContext("2d");
  drawMap(canvas, slotMap(attention, head, slot), attention.side, COLOUR);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "rgb(0 0 0 / 40%)";
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.globalCompositeOperation = "source-over";
  if (!withToken) return;
  const cell = canvas.width / attention.side;
  const [x, y] = [(state.token % attention.side) * cell, Math.floor(state.token / attention.side) * cell];
  context.lineWidth = 8;
  context.strokeStyle = "black";
  context.strokeRect(x, y, cell, cell);
  context.lineWidth = 4;
  context.strokeStyle = "white";
  context.strokeRect(x, y, cell, cell);
}

/** Write under each slot how much of it is read; `largest` is the slot to emphasise. */
function showShares(shares, largest) {
  [...$("slots").children].forEach((choice, i) => {
    choice.toggleAttribute("data-read", i === largest);
    choice.querySelector(".share").textContent = percent(shares[i]);
  });
}

/** Show what the chosen slot is to all tokens. */
function leaveToken() {
  const { attention, head, slot } = chosen();
  drawOverlay();
  showShares(meanShares(attention, head));
  $("reader").textContent = "the tokens read on average";
  $("token").textContent = `${attention.side}×${attention.side} tokens. Bright: reads much of slot ${slot + 1}.`;
}

/** Show what one token reads. */
function selectToken(token) {
  state.token = token;
  const { attention, head } = chosen();
  const shares = slotsOfToken(attention, head, token);
  const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a]);
  drawOverlay(true);
  showShares(shares, order[0]);
  $("reader").textContent = "the token reads";
  const [row, column] = [Math.floor(token / attention.side) + 1, (token % attention.side) + 1];
  const parts = order.slice(0, 3).map((slot) => `${slot + 1} (${percent(shares[slot])})`);
  $("token").textContent = `The token in row ${row}, column ${column} reads most from slots ${parts.join(", ")}.`;
}

function tokenAt(event) {
  const box = $("overlay").getBoundingClientRect();
  const { side } = chosen().attention;
  const [column, row] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map((at) =>
    Math.max(0, Math.min(side - 1, Math.floor(at * side))),
  );
  return row * side + column;
}

function moveToken(event) {
  const { side } = chosen().attention;
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (!(event.key in steps)) return;
  event.preventDefault();
  const [column, row] = [state.token % side, Math.floor(state.token / side)].map((at, axis) =>
    Math.max(0, Math.min(side - 1, at + steps[event.key][axis])),
  );
  selectToken(row * side + column);
}

// Start -----------------------------------------------------------------------------------------------------------------

function listenToMaps() {
  for (const id of ["block", "head"]) $(id).addEventListener("change", showMaps);
  $("slots").addEventListener("change", leaveToken);
  const overlay = $("overlay");
  overlay.addEventListener("pointermove", (event) => selectToken(tokenAt(event)));
  overlay.addEventListener("pointerdown", (event) => selectToken(tokenAt(event)));
  overlay.addEventListener("focus", () => overlay.matches(":focus-visible") && selectToken(state.token));
  overlay.addEventListener("keydown", moveToken);
  overlay.addEventListener("blur", leaveToken);
  overlay.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "mouse") leaveToken(); // a finger leaves at once; what it chose stays
  });
}

function listenToImages() {
  for (const input of [$("file"), $("camera")]) {
    input.addEventListener("change", () => {
      if (input.files.length) show(input.files[0], input.files[0].name);
      input.value = ""; // so that the same file can be chosen again
    });
  }
  const drop = $("drop");
  for (const type of ["dragenter", "dragover"]) {
    document.addEventListener(type, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  for (const type of ["dragleave", "drop"]) document.addEventListener(type, () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    take(event.dataTransfer);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData));
}

function take(transfer) {
  const [file] = transfer?.files ?? [];
  if (file) show(file, file.name);
  else if (transfer?.types.length) say("That is not an image file. Please save the image first, and drop the file.", true);
}

function showSamples(names) {
  $("samples-part").hidden = names.length === 0;
  $("samples").replaceChildren(
    ...names.map((name) => {
      const [item, image] = [element("li"), element("img", "", { src: `samples/${encodeURIComponent(name)}`, alt: stem(name) })];
      const button = element("button", "", { type: "button", title: stem(name) });
      button.dataset.name = name;
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => show(fetchSample(image.src), name));
      button.append(image);
      item.append(button);
      return item;
    }),
  );
}

async function fetchSample(url) {
  const response = await fetch(url).catch(() => null);
  if (!response?.ok) throw new ImageError("This sample could not be loaded.");
  return response.blob();
}

async function describeSite() {
  const response = await fetch("site.json");
  const site = response.ok ? await response.json() : { samples: [] };
  if (site.title) $("title").textContent = document.title = site.title;
  if (site.model) {
    $("source").append(" · Model: ", element("a", site.model, { href: `https://huggingface.co/${site.model}` }));
  }
  showSamples(site.samples);
}

async function start() {
  const classifier = await loadClassifier("model.onnx");
  state.classifier = classifier;
  const { image_size: side } = classifier.config;
  $("about").textContent = `It knows ${classifier.labels.length} classes and looks at ${side}×${side} pixels.`;
  return classifier;
}

/** Begin with a sample, unless a person was faster. */
async function showFirst() {
  await Promise.all([site, ready]);
  if (state.turn > 0) return;
  const sample = document.querySelector("#samples button");
  if (sample) return sample.click();
  become("ready");
  say("Ready. Choose an image.");
}

listenToImages();
listenToMaps();
const site = describeSite();
const ready = start();
showFirst().catch((error) => {
  become("ready");
  say(error.message, true);
  console.error(error);
});
