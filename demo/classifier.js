// An ONNX file of eanet.export in onnxruntime-web: one image in, scores and attention out.
import * as ort from "./runtime/ort.wasm.min.mjs";
import { toSquare } from "./resize.js";

const ATTENTION = /^attention_(\d+)$/;

/** Load the model at a URL. Throws an Error that says what is wrong. */
export async function loadClassifier(url) {
  if (typeof WebAssembly !== "object") throw new Error("This browser has no WebAssembly, which the model runs on. Please try a current one.");
  ort.env.wasm.numThreads = 1; // more would need isolation headers, which static pages do not have
  ort.env.wasm.wasmPaths = new URL("./runtime/", import.meta.url).href;
  const response = await fetch(url);
  if (!response.ok) throw new Error(`The model could not be loaded (${response.status}).`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const config = JSON.parse(modelMetadata(bytes).get("eanet_config") ?? "null");
  if (config === null) throw new Error("This model was not written by eanet.export.");
  const session = await ort.InferenceSession.create(bytes, { executionProviders: ["wasm"], graphOptimizationLevel: "all" });
  const attention = session.outputNames.filter((name) => ATTENTION.test(name)).sort((a, b) => a.match(ATTENTION)[1] - b.match(ATTENTION)[1]);
  return new Classifier(session, config, attention);
}

class Classifier {
  constructor(session, config, attention) {
    this.session = session;
    this.config = config;
    this.labels = Object.keys(config.id2label).sort((a, b) => a - b).map((index) => config.id2label[index]);
    this.attentionNames = attention;
  }

  /** Return {scores, attention, milliseconds}; attention is one {heads, slots, side, values} per block. */
  async classify(image) {
    const begin = performance.now();
    const side = this.config.image_size;
    const tensor = new ort.Tensor("float32", Float32Array.from(toSquare(image, this.config)), [1, side, side, 3]);
    const outputs = await this.session.run({ image: tensor }, ["probabilities", ...this.attentionNames]);
    const attention = this.attentionNames.map((name) => {
      const [, heads, slots, tokens] = outputs[name].dims;
      return { heads, slots, side: Math.round(Math.sqrt(tokens)), values: outputs[name].data };
    });
    return { scores: outputs.probabilities.data, attention, milliseconds: performance.now() - begin };
  }

  /** Return the k best {label, score}, ties by class index. */
  top(scores, k) {
    const order = [...scores.keys()].sort((a, b) => scores[b] - scores[a] || a - b).slice(0, k);
    return order.map((index) => ({ label: this.labels[index], score: scores[index] }));
  }
}

/** Return the properties of an ONNX file: the map in field 14 of its protobuf message. */
export function modelMetadata(bytes) {
  const found = new Map();
  for (const [field, value] of fields(bytes)) {
    if (field !== 14 || !(value instanceof Uint8Array)) continue;
    const entry = new Map(fields(value));
    const [name, text] = [1, 2].map((key) => new TextDecoder().decode(entry.get(key) ?? new Uint8Array()));
    found.set(name, text);
  }
  return found;
}

function* fields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; at < bytes.length; factor *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) break;
    }
    return value;
  };
  while (at < bytes.length) {
    const key = varint();
    const kind = key % 8;
    const length = kind === 2 ? varint() : kind === 1 ? 8 : kind === 5 ? 4 : 0;
    const value = kind === 0 ? varint() : bytes.subarray(at, at + length);
    if (![0, 1, 2, 5].includes(kind)) throw new Error("This file is not an ONNX model.");
    at += length;
    yield [Math.floor(key / 8), value];
  }
}
