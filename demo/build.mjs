// Write dist/: the page, the runtime from node_modules, a model and its sample images.
//
//     npm ci --prefix demo && npm run build --prefix demo
//     npm run build --prefix demo -- --model ../runs/mine/onnx/model.onnx --samples ../runs/mine/samples
//     python -m http.server -d demo/dist
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const HERE = dirname(fileURLToPath(import.meta.url));
const PAGE = ["index.html", "style.css", "app.js", "classifier.js", "decode.js", "maps.js", "resize.js", "README.md"];
const RUNTIME = ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"];

const { values } = parseArgs({
  options: {
    model: { type: "string", default: join(HERE, "../onnx/model.onnx") },
    samples: { type: "string", default: join(HERE, "../samples") },
    title: { type: "string", default: "EANet" },
    output: { type: "string", default: join(HERE, "dist") },
  },
});

const from = join(HERE, "node_modules/onnxruntime-web/dist");
for (const path of [from, values.model]) {
  if (!existsSync(path)) {
    console.error(`build: error: ${path}: no such file; ${path === from ? "`npm ci --prefix demo`" : "`python -m eanet.export`"} first`);
    process.exit(2);
  }
}
const output = resolve(values.output);
const earlier = ["site.json", join("runtime", RUNTIME[0])].every((name) => existsSync(join(output, name)));
if (existsSync(output) && !earlier && (!statSync(output).isDirectory() || readdirSync(output).length)) {
  console.error(`build: error: --output ${output}: is not an earlier page; give a new folder`);
  process.exit(2);
}
mkdirSync(dirname(output), { recursive: true });
const building = mkdtempSync(`${output}.building-`);
process.on("exit", () => rmSync(building, { recursive: true, force: true }));
process.on("SIGINT", () => process.exit(130));
mkdirSync(join(building, "runtime"));
for (const name of PAGE) cpSync(join(HERE, name), join(building, name));
for (const name of RUNTIME) cpSync(join(from, name), join(building, "runtime", name));
cpSync(values.model, join(building, "model.onnx"));
const samples = existsSync(values.samples) ? readdirSync(values.samples).filter((name) => /\.(png|jpe?g)$/.test(name)).sort() : [];
for (const name of samples) cpSync(join(values.samples, name), join(building, "samples", name));
writeFileSync(join(building, "site.json"), `${JSON.stringify({ title: values.title, model: null, samples }, null, 2)}\n`);
rmSync(output, { recursive: true, force: true });
renameSync(building, output);
console.log(`wrote ${output}`);
