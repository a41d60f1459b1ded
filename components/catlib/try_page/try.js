// Runs the student that lies in this page on a picture or the camera; worker.js does what takes long.

const element = id => document.getElementById(id);
const settings = JSON.parse(element("settings").textContent);
const CAMERA_SIDE = 320; // longest side of the camera's pictures, in pixels
const ROUNDS = 30; // of "Measure"
const TOLERANCE = 2; // levels of 255 by which WebGPU may differ from the CPU
const SMALLER = Math.SQRT1_2; // how much shorter the sides are of the next size that is tried: half the pixels

/** A mistake or an obstacle that one sentence explains. */
class Refusal extends Error {}

/** The button "Stop" was pressed. */
class Stopped extends Error {}

// ------------------------------------------------------------------------------------------------------------ runtime

/** Returns the bytes of a part of the page, which is compressed and written in base 64. */
async function unpacked(id) {
  const text = atob(element(id).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

/** A worker with the student on "cpu" or "gpu": it does one thing at a time, and this page goes on meanwhile. */
class Device {
  constructor(name) {
    this.worker = new Worker(URL.createObjectURL(new Blob([element("worker").textContent], { type: "text/javascript" })));
    this.ready = this.load(name);
    this.ready.catch(() => {}); // whoever calls hears of it
  }

  async load(name) {
    const [script, binary, model] = await Promise.all([`${name}-script`, `${name}-binary`, "model"].map(unpacked));
    await this.send("start", [name, settings, { script, binary, model }], [script, binary, model]);
  }

  /** Has the worker do one of its actions, and returns what it answers. */
  async call(action, ...given) {
    await this.ready;
    return this.send(action, given);
  }

  send(action, given, handedOver = []) {
    return new Promise((resolve, reject) => {
      if (this.ended) throw this.ended;
      this.reject = reject;
      this.worker.onmessage = ({ data: { value, error, refused } }) =>
        error === undefined ? resolve(value) : reject(new (refused ? Refusal : Error)(error));
      this.worker.onerror = event => reject(new Error(event.message || "its worker does not start"));
      this.worker.postMessage([action, ...given], handedOver);
    });
  }

  /** Ends the worker, whatever it does; whoever waits for it gets the reason. */
  end(reason) {
    this.ended = reason;
    this.worker.terminate();
    this.reject?.(reason);
  }
}

/** The devices in use, and for each the smallest number of pixels on which its network did not run, with the reason. */
const devices = { cpu: new Device("cpu") };
const failed = { cpu: { pixels: Infinity }, gpu: { pixels: Infinity } };

/** Has a device do something. After a failure it begins anew, because memory that was taken is not given back. */
async function asked(name, action, ...given) {
  try {
    return await devices[name].call(action, ...given);
  } catch (error) {
    if (!(error instanceof Refusal)) {
      devices[name].end(error);
      devices[name] = new Device(name);
    }
    throw error;
  }
}

/** Makes sure that WebGPU computes what the CPU does. */
async function checkedGpu() {
  const side = Math.ceil(Math.max(settings.smallest_size, 32) / settings.size_step) * settings.size_step;
  const noise = new ImageData(Uint8ClampedArray.from({ length: 4 * side * side }, (_, i) => (i * 7919) % 256), side);
  const gpu = new Device("gpu");
  try {
    const [here, there] = [await asked("cpu", "translate", noise), await gpu.call("translate", noise)];
    const difference = here.made.data.reduce((most, value, i) => Math.max(most, Math.abs(value - there.made.data[i])), 0);
    if (difference > TOLERANCE) throw new Refusal(`it differs from the CPU by ${difference} of 255 levels`);
  } catch (error) {
    gpu.end(error);
    throw error;
  }
  return gpu;
}

/** Returns the first line of a message, without where in ONNX Runtime it came from. */
const firstLine = error =>
  String(error?.message ?? error).split("\n")[0].replace(/^.*(ERROR_MESSAGE: (\S+:\d+ .*\) )?|\[ONNXRuntimeError\] : \d+ : \w+ : )/, "").trim().slice(0, 200).replace(/\.$/, "");

// ----------------------------------------------------------------------------------------------------------- pictures

/** Decodes a file; returns `bitmap`, and `remarks` about what is lost. */
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
  return { bitmap, remarks };
}

/** Translates a bitmap at its own size or, where the network does not run on that, at the first smaller one that it does.
 *
 * Returns `shown` (with alpha), `read` (on white), `made`, `milliseconds`, and a `remark` if it was scaled down.
 */
async function translatedWhole(bitmap, name, device) {
  const { height, width } = bitmap;
  const what = `${name} has ${height}x${width} pixels (height x width)`;
  for (let scale = 1; Math.floor(scale * Math.min(height, width)) >= settings.smallest_size; scale *= SMALLER) {
    const [rows, columns] = [Math.floor(scale * height), Math.floor(scale * width)];
    if (rows * columns >= failed[device].pixels) continue;
    try {
      const drawn = await asked(device, "draw", bitmap, columns, rows);
      const remark = scale < 1 &&
        `${what}, too many for the student in this browser; it was scaled down to ${rows}x${columns}.`;
      return { ...drawn, ...(await asked(device, "translate", drawn.read)), remark };
    } catch (error) {
      if (error instanceof Refusal || error instanceof Stopped) throw error;
      failed[device] = { pixels: rows * columns, reason: firstLine(error) };
    }
  }
  throw new Refusal(
    `${what}, too many for the student in this browser (${failed[device].reason}), and cannot be scaled down far enough; cut it into smaller pictures.`);
}

/** Translates a picture on white at its size. */
async function translated(read) {
  try {
    return await asked(now.device, "translate", read);
  } catch (error) {
    if (error instanceof Refusal || error instanceof Stopped) throw error;
    throw new Refusal(
      `The student cannot be run on ${read.height}x${read.width} pixels (${firstLine(error)}); choose a smaller picture.`);
  }
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

/** What is on the page (`bitmap` unless it is the camera's, `shown`, `read`, `made`, `name`), the camera, if it is wanted, the
 * device that translates, and whether it does something that a person may stop. */
const now = { picture: null, camera: null, device: "cpu", working: false };

/** Jobs run one after the other, because the network does one thing at a time. */
let last = Promise.resolve();

function job(work) {
  last = last.then(() => attempted(work));
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
  element("status").textContent = error instanceof Stopped ? "Stopped." : "";
  if (error instanceof Stopped) return;
  element("error").textContent =
    error instanceof Refusal ? error.message : `Something in this page failed (${firstLine(error)}); reload it.`;
  element("error").hidden = false;
}

/** Shows that something is being done, for how many seconds, and a button that stops it. */
async function working(text, work) {
  const begin = performance.now();
  const tick = () => {
    element("status").textContent = `${text} … ${Math.floor((performance.now() - begin) / 1000)} s`;
  };
  tick();
  const timer = setInterval(tick, 200);
  now.working = true;
  element("progress").hidden = false;
  try {
    return await work();
  } finally {
    clearInterval(timer);
    now.working = false;
    element("progress").hidden = true;
  }
}

function stop() {
  if (now.working) devices[now.device].end(new Stopped());
}

async function translateFile(file) {
  now.picture = null;
  element("result").hidden = true;
  element("measured").textContent = "";
  remark([]);
  element("status").textContent = `Reading ${file.name} …`;
  const { bitmap, remarks } = await decoded(file);
  await translateBitmap(bitmap, file.name, remarks);
}

async function translateBitmap(bitmap, name, remarks) {
  const done = await working(`Translating ${name}`, () => translatedWhole(bitmap, name, now.device));
  remark([...remarks, ...(done.remark ? [done.remark] : [])]);
  show({ ...done, bitmap, name, remarks });
}

function show(picture) {
  const { shown, made, name, milliseconds } = picture;
  for (let i = 3; i < made.data.length; i += 4) made.data[i] = shown.data[i];
  for (const [id, pixels] of [["input", shown], ["student", made]]) {
    const canvas = element(id);
    if (canvas.width !== pixels.width || canvas.height !== pixels.height) {
      Object.assign(canvas, { width: pixels.width, height: pixels.height });
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
  }
  now.picture = picture;
  const where = element("device").querySelector(`[value=${now.device}]`).textContent;
  element("status").textContent =
    `${name}: ${shown.height}x${shown.width} pixels (height x width), ${milliseconds.toFixed(1)} ms on ${where}`;
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
  const [before, times] = [element("status").textContent, []];
  await working("Measuring", async () => {
    for (let round = 1; round <= ROUNDS; round++) {
      element("measured").textContent = `round ${round} of ${ROUNDS}`;
      times.push((await translated(now.picture.read)).milliseconds);
    }
  }).catch(error => {
    element("measured").textContent = "";
    throw error;
  });
  times.sort((a, b) => a - b);
  const [median, p95] = [0.5, 0.95].map(share => times[Math.ceil(share * ROUNDS) - 1].toFixed(1));
  element("status").textContent = before;
  element("measured").textContent = `median ${median} ms, 95 % within ${p95} ms`;
}

async function changeDevice() {
  const device = element("device").value;
  if (device === "gpu" && !devices.gpu) {
    element("status").textContent = "Comparing WebGPU with the CPU …";
    try {
      devices.gpu = await checkedGpu();
    } catch (error) {
      element("device").value = now.device;
      throw new Refusal(`WebGPU cannot be used here (${firstLine(error)}); the CPU goes on.`);
    }
  }
  now.device = device;
  element("measured").textContent = "";
  element("status").textContent = "Ready.";
  if (now.picture?.bitmap) await translateBitmap(now.picture.bitmap, now.picture.name, now.picture.remarks);
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
    const bitmap = await createImageBitmap(camera.video);
    const drawn = await asked(now.device, "draw", bitmap, width, height);
    bitmap.close();
    const done = await translated(drawn.read);
    if (now.camera !== camera) return;
    show({ ...drawn, ...done, name: "camera" });
    await new Promise(requestAnimationFrame);
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
  stop();
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
element("stop").addEventListener("click", stop);
element("device").addEventListener("change", () => job(changeDevice));
element("save").addEventListener("click", () => job(save));
element("measure").addEventListener("click", () => job(measure));
element("third-parties").addEventListener("toggle", async () => {
  element("notices-text").textContent ||= new TextDecoder().decode(await unpacked("notices"));
}, { once: true });

job(async () => {
  try {
    await devices.cpu.ready;
  } catch (error) {
    throw new Refusal(`This browser cannot run the student (${firstLine(error)}); use a newer Firefox, Chrome, Edge or Safari.`);
  }
  if (await navigator.gpu?.requestAdapter().catch(() => null)) {
    const option = element("device").querySelector("[value=gpu]");
    Object.assign(option, { disabled: false, textContent: "GPU (WebGPU, untested)" });
  }
  element("status").textContent = "Ready.";
});
