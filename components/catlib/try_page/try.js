// Runs the student that lies in this page on a picture or the camera. Suffixes as in the Python code: C channels, H height, W width.

const element = id => document.getElementById(id);
const settings = JSON.parse(element("settings").textContent);
const CAMERA_SIDE = 320; // longest side of the camera's pictures, in pixels
const ROUNDS = 30; // of "Measure"
const TOLERANCE = 2; // levels of 255 by which WebGPU may differ from the CPU

/** A mistake or an obstacle that one sentence explains. */
class Refusal extends Error {}

// ------------------------------------------------------------------------------------------------------------ runtime

/** Returns the bytes of a part of the page, which is compressed and written in base 64. */
async function unpacked(id) {
  const text = atob(element(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** Returns what `runtime` needs for "cpu" or "gpu". */
async function parts(device) {
  const [script, binary, model] = await Promise.all([`${device}-script`, `${device}-binary`, "model"].map(unpacked));
  return { script, binary, model, provider: device === "gpu" ? "webgpu" : "wasm", settings };
}

/**
 * Starts ONNX Runtime; returns a function from [3, H, W] in [-1, 1] to the same.
 * Its text also runs in a worker, so it uses nothing of this page.
 */
async function runtime({ script, binary, model, provider, settings }) {
  const ort = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  ort.env.wasm.numThreads = 1; // pages from disk get no shared memory, which threads need
  ort.env.wasm.wasmBinary = binary;
  const session = await ort.InferenceSession.create(new Uint8Array(model), {
    executionProviders: [provider],
    enableCpuMemArena: false,
  });
  return async (image_CHW, height, width) => {
    const image = new ort.Tensor("float32", image_CHW, [1, 3, height, width]);
    const made = (await session.run({ [settings.input]: image }))[settings.output];
    const made_CHW = await made.getData();
    made.dispose();
    return made_CHW;
  };
}

const IN_WORKER = `${runtime}
let run;
onmessage = async ({ data: { parts, image_CHW, height, width } }) => {
  try {
    if (parts) run = await runtime(parts);
    postMessage({ made_CHW: parts ? null : await run(image_CHW, height, width) });
  } catch (error) {
    postMessage({ failed: String(error?.message ?? error) });
  }
};`;

/** Starts ONNX Runtime on the CPU in a worker, so that this page answers while it computes. */
async function startedWorker() {
  const worker = new Worker(URL.createObjectURL(new Blob([IN_WORKER], { type: "text/javascript" })));
  const ask = message => new Promise((resolve, reject) => {
    worker.onmessage = ({ data }) => ("failed" in data ? reject(new Error(data.failed)) : resolve(data.made_CHW));
    worker.onerror = event => reject(new Error(event.message || "the browser ended it"));
    now.stop = () => reject(new Refusal("Stopped."));
    worker.postMessage(message);
  });
  await ask({ parts: await parts("cpu") });
  return async (image_CHW, height, width) => {
    try {
      return await ask({ image_CHW, height, width });
    } catch (error) { // stopped, or out of memory: a new worker begins anew
      worker.terminate();
      devices.cpu = startedWorker();
      throw error;
    }
  };
}

/** Makes sure that WebGPU computes what the CPU does. */
async function checkedGpu() {
  const side = Math.ceil(Math.max(settings.smallest_size, 32) / settings.size_step) * settings.size_step;
  const noise = new ImageData(Uint8ClampedArray.from({ length: 4 * side * side }, (_, i) => (i * 7919) % 256), side);
  const gpu = await runtime(await parts("gpu"));
  const [here, there] = [await translated(noise, await devices.cpu), await translated(noise, gpu)];
  const difference = here.data.reduce((most, value, i) => Math.max(most, Math.abs(value - there.data[i])), 0);
  if (difference > TOLERANCE) throw new Refusal(`it differs from the CPU by ${difference} of 255 levels`);
  return gpu;
}

// ------------------------------------------------------------------------------------------------------------ numbers

const enlarged = side => Math.ceil(side / settings.size_step) * settings.size_step;

/** Returns which pixel of a side stands at a place beyond it, by reflection: 0 1 2 3 | 2 1 0. */
function reflected(place, side) {
  const period = Math.max(1, 2 * (side - 1));
  return Math.min(place % period, period - (place % period));
}

/** Returns a picture as the network reads it, at whole size steps: [3, H, W] in [-1, 1]. */
function toNetwork({ data, width, height }) {
  const [rows, columns] = [enlarged(height), enlarged(width)];
  const image_CHW = new Float32Array(3 * rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const from = 4 * (reflected(row, height) * width + reflected(column, width));
      for (let c = 0; c < 3; c++) image_CHW[(c * rows + row) * columns + column] = data[from + c] / 127.5 - 1;
    }
  }
  return image_CHW;
}

/** Returns what the network made as an opaque picture of this size; numbers are rounded and clipped by the array. */
function fromNetwork(made_CHW, width, height) {
  const [rows, columns] = [enlarged(height), enlarged(width)];
  const picture = new ImageData(width, height);
  for (let row = 0; row < height; row++) {
    for (let column = 0; column < width; column++) {
      const to = 4 * (row * width + column);
      for (let c = 0; c < 3; c++) {
        const value = made_CHW[(c * rows + row) * columns + column];
        if (!Number.isFinite(value)) throw new Refusal("The model makes values that are not finite; train it again.");
        picture.data[to + c] = (value + 1) * 127.5;
      }
      picture.data[to + 3] = 255;
    }
  }
  return picture;
}

/** Translates a picture without alpha; the answer also has the milliseconds that the network took. */
async function translated(picture, run) {
  const { width, height } = picture;
  const image_CHW = toNetwork(picture);
  const begin = performance.now();
  let made_CHW;
  try {
    made_CHW = await run(image_CHW, enlarged(height), enlarged(width));
  } catch (error) {
    if (error instanceof Refusal) throw error;
    throw new Refusal(
      `The network cannot run on ${height}x${width} pixels (${firstLine(error)}); choose a smaller picture.`);
  }
  const milliseconds = performance.now() - begin;
  return Object.assign(fromNetwork(made_CHW, width, height), { milliseconds });
}

const firstLine = error => String(error?.message ?? error).split("\n")[0].slice(0, 200).replace(/\.$/, "");

// ----------------------------------------------------------------------------------------------------------- pictures

/** Decodes a file; returns what `drawn` returns. */
async function decoded(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Refusal(
      `${file.name} cannot be read as a picture: it is damaged, too large, or of a type that browsers do not read; choose a PNG, JPEG or WebP file.`);
  }
  const { height, width } = bitmap;
  if (Math.min(height, width) < settings.smallest_size) {
    throw new Refusal(
      `${file.name} has ${height}x${width} pixels (height x width), but this model needs at least ${settings.smallest_size} each way; enlarge it.`);
  }
  const remarks = [];
  if (await isDeepPng(file)) remarks.push(`${file.name} has 16 bits per channel, of which this page uses 8.`);
  const scale = Math.min(1, Math.sqrt(settings.most_pixels / (height * width)));
  const [rows, columns] = [Math.floor(scale * height), Math.floor(scale * width)];
  if (Math.min(rows, columns) < settings.smallest_size) {
    throw new Refusal(
      `${file.name} has ${height}x${width} pixels (height x width), more than fit into a browser's memory, and is too narrow to be scaled down; cut it into smaller pictures.`);
  }
  if (scale < 1) {
    remarks.push(
      `${file.name} has ${height}x${width} pixels (height x width), more than fit into a browser's memory; it was scaled down to ${rows}x${columns}.`);
  }
  return { ...drawn(bitmap, columns, rows), remarks };
}

/** Returns the pixels of a bitmap or video: `shown` with alpha, and `read`, as the network sees them: on white. */
function drawn(source, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true }); // in main memory: exact
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  const shown = context.getImageData(0, 0, width, height);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  return { shown, read: context.getImageData(0, 0, width, height) };
}

/** Returns whether a file is a PNG of 16 bits per channel; byte 24 states the number. */
async function isDeepPng(file) {
  const head = new Uint8Array(await file.slice(0, 25).arrayBuffer());
  return head[0] === 0x89 && head[1] === 0x50 && head[24] === 16;
}

/** Returns a picture as a PNG file; a canvas would lose colours where alpha is low. */
async function png({ data, width, height }) {
  const rows = new Uint8Array(height * (4 * width + 1)); // each row begins with its filter: 0, none
  for (let row = 0; row < height; row++) {
    rows.set(data.subarray(4 * width * row, 4 * width * (row + 1)), row * (4 * width + 1) + 1);
  }
  const packed = await new Response(new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"))).arrayBuffer();
  const header = new DataView(new ArrayBuffer(13));
  header.setUint32(0, width);
  header.setUint32(4, height);
  header.setUint16(8, 0x0806); // 8 bits, colours with alpha
  const chunks = [["IHDR", header.buffer], ["IDAT", packed], ["IEND", new ArrayBuffer(0)]];
  const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
  return new Blob([signature, ...chunks.map(([name, content]) => chunk(name, content))], { type: "image/png" });
}

function chunk(name, content) {
  const bytes = new Uint8Array(12 + content.byteLength);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.byteLength);
  bytes.set(new TextEncoder().encode(name), 4);
  bytes.set(new Uint8Array(content), 8);
  view.setUint32(8 + content.byteLength, crc32(bytes.subarray(4, 8 + content.byteLength)));
  return bytes;
}

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC_TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

// --------------------------------------------------------------------------------------------------------------- page

/**
 * What is on the page (`shown` and `read` of `drawn`, `made` with alpha, a name), the camera, if it is wanted, and what
 * ends the CPU's work.
 */
const now = { picture: null, camera: null, stop: () => {} };

/** Functions as `runtime` returns them, or promises of them, by device. */
const devices = { cpu: startedWorker() };

/** Jobs run one after the other, because the network does one thing at a time. */
let last = Promise.resolve();

function job(work) {
  last = last.then(() => attempted(work));
}

/** Shows that something long goes on, which can be stopped on the CPU. */
async function busy(work) {
  element("busy").hidden = false;
  element("stop").hidden = element("device").value !== "cpu";
  try {
    await painted();
    await work();
  } finally {
    element("busy").hidden = element("stop").hidden = true;
  }
}

async function attempted(work) {
  element("error").hidden = true;
  try {
    await work();
  } catch (error) {
    complain(error);
  }
}

function complain(error) {
  stopCamera();
  element("status").textContent = "";
  element("error").textContent =
    error instanceof Refusal ? error.message : `Something in this page failed (${firstLine(error)}); reload it.`;
  element("error").hidden = false;
}

/** Lets the browser draw what has changed before something long begins. */
const painted = () => new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));

async function currentDevice() {
  return devices[element("device").value];
}

async function translateFile(file) {
  element("result").hidden = true;
  element("measured").textContent = "";
  remark([]);
  element("status").textContent = `Reading ${file.name} …`;
  const { shown, read, remarks } = await decoded(file);
  remark(remarks);
  element("status").textContent = `Translating ${file.name} …`;
  await busy(() => show(shown, read, file.name));
}

async function show(shown, read, name) {
  const made = await translated(read, await currentDevice());
  for (let i = 3; i < made.data.length; i += 4) made.data[i] = shown.data[i];
  for (const [id, picture] of [["input", shown], ["student", made]]) {
    const canvas = element(id);
    if (canvas.width !== picture.width || canvas.height !== picture.height) {
      Object.assign(canvas, { width: picture.width, height: picture.height });
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }
  now.picture = { shown, read, made, name };
  const where = element("device").selectedOptions[0].textContent;
  element("status").textContent =
    `${name}: ${shown.height}x${shown.width} pixels (height x width), ${made.milliseconds.toFixed(1)} ms on ${where}`;
  element("result").hidden = false;
}

function remark(remarks) {
  element("remarks").replaceChildren(
    ...remarks.map(text => Object.assign(document.createElement("li"), { textContent: text })));
  element("remarks").hidden = remarks.length === 0;
}

async function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await png(now.picture.made));
  link.download = `${now.picture.name.replace(/\.[^.]*$/, "")}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

async function measure() {
  const run = await currentDevice();
  const times = [];
  await busy(async () => {
    for (let round = 1; round <= ROUNDS; round++) {
      element("measured").textContent = `round ${round} of ${ROUNDS}`;
      times.push((await translated(now.picture.read, run)).milliseconds);
    }
  });
  times.sort((a, b) => a - b);
  const [median, p95] = [0.5, 0.95].map(share => times[Math.ceil(share * ROUNDS) - 1].toFixed(1));
  element("measured").textContent = `median ${median} ms, 95 % within ${p95} ms`;
}

async function changeDevice() {
  if (element("device").value === "gpu" && !devices.gpu) {
    element("status").textContent = "Comparing WebGPU with the CPU …";
    await painted();
    try {
      devices.gpu = await checkedGpu();
    } catch (error) {
      element("device").value = "cpu";
      throw new Refusal(`WebGPU cannot be used here (${firstLine(error)}); the CPU goes on.`);
    }
  }
  element("measured").textContent = "";
  element("status").textContent = "Ready.";
  if (now.picture) await show(now.picture.shown, now.picture.read, now.picture.name);
}

// ------------------------------------------------------------------------------------------------------------- camera

const CAMERA_REFUSALS = {
  NotAllowedError: "The browser refused the camera; allow it for this page and press Camera again.",
  NotFoundError: "There is no camera; connect one, or choose a picture.",
  NotReadableError: "Another program uses the camera; close it and press Camera again.",
};

async function startCamera() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw new Refusal("This browser gives its camera to no page like this; choose a picture.");
  }
  const camera = { stream: null, video: document.createElement("video") };
  now.camera = camera;
  element("camera").textContent = "Stop the camera";
  element("status").textContent = "Waiting for the camera …";
  try {
    camera.stream = await navigator.mediaDevices.getUserMedia({ video: true });
    if (now.camera !== camera) return stopped(camera); // stopped while the browser asked
    Object.assign(camera.video, { srcObject: camera.stream, muted: true, playsInline: true });
    await camera.video.play();
  } catch (error) {
    throw new Refusal(CAMERA_REFUSALS[error.name] ?? `The camera cannot be used (${firstLine(error)}); choose a picture.`);
  }
  camera.stream.getTracks()[0].addEventListener("ended", () => {
    if (now.camera === camera) complain(new Refusal("The camera stopped; connect it and press Camera again."));
  });
  element("measured").textContent = "";
  const { videoHeight, videoWidth } = camera.video;
  const scale = Math.min(1, CAMERA_SIDE / Math.max(videoHeight, videoWidth));
  const [height, width] = [videoHeight, videoWidth].map(side => Math.round(scale * side));
  remark(scale < 1
    ? [`The camera's pictures have ${videoHeight}x${videoWidth} pixels (height x width) and are scaled down to ${height}x${width}.`]
    : []);
  nextFrame(camera, height, width);
}

/** Queues the next picture of the camera, unless it was stopped. */
function nextFrame(camera, height, width) {
  job(async () => {
    if (now.camera !== camera) return;
    const { shown, read } = drawn(camera.video, width, height);
    await show(shown, read, "camera");
    await painted();
    nextFrame(camera, height, width);
  });
}

function stopCamera() {
  if (now.camera) stopped(now.camera);
  now.camera = null;
  element("camera").textContent = "Camera";
}

function stopped(camera) {
  camera.stream?.getTracks().forEach(track => track.stop());
}

// ------------------------------------------------------------------------------------------------------------- events

function take(files) {
  stopCamera();
  job(async () => {
    if (files.length === 0) throw new Refusal("What was dropped is no file; drop a picture from your disk.");
    if (files.length > 1) throw new Refusal(`${files.length} files were given; give one picture at a time.`);
    await translateFile(files[0]);
  });
}

element("file").addEventListener("change", event => {
  if (event.target.files.length > 0) take([...event.target.files]);
  event.target.value = ""; // the same file may be chosen again
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, event => {
    event.preventDefault(); // else the browser opens the file in place of this page
    document.body.classList.toggle("dragged", name === "dragover");
    if (name === "drop") take([...event.dataTransfer.files]);
  });
}
element("split").addEventListener("input", event => {
  element("compare").style.setProperty("--split", `${event.target.value}%`);
});
element("camera").addEventListener("click", () => {
  if (now.camera) {
    stopCamera();
  } else {
    attempted(startCamera); // not as a job: the browser may ask for a long time
  }
});
element("device").addEventListener("change", () => job(changeDevice));
element("stop").addEventListener("click", () => now.stop());
element("save").addEventListener("click", () => job(save));
element("measure").addEventListener("click", () => job(measure));
element("third-parties").addEventListener("toggle", async () => {
  element("notices-text").textContent ||= new TextDecoder().decode(await unpacked("notices"));
}, { once: true });

job(async () => {
  try {
    await devices.cpu;
  } catch (error) {
    throw new Refusal(`This browser cannot run the student (${firstLine(error)}); use a newer Firefox, Chrome, Edge or Safari.`);
  }
  if (await navigator.gpu?.requestAdapter().catch(() => null)) {
    const option = element("device").querySelector("[value=gpu]");
    Object.assign(option, { disabled: false, textContent: "GPU (WebGPU, untested)" });
  }
  element("status").textContent = "Ready.";
});
