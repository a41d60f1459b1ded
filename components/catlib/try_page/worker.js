// Holds the network and does what takes long, so that the page goes on answering. Suffixes: C channels, H height, W width.

/** A mistake or an obstacle that one sentence explains. */
class Refusal extends Error {}

let settings;
let run;

/** Starts ONNX Runtime on "cpu" or "gpu" with the student. */
async function start(device, given, { script, binary, model }) {
  settings = given;
  const ort = await import(URL.createObjectURL(new Blob([script], { type: "text/javascript" })));
  ort.env.wasm.numThreads = 1; // pages from disk get no shared memory, which threads need
  ort.env.wasm.wasmBinary = binary;
  const session = await ort.InferenceSession.create(new Uint8Array(model), {
    executionProviders: [device === "gpu" ? "webgpu" : "wasm"],
    enableCpuMemArena: false,
  });
  run = async (image_CHW, height, width) => {
    const image = new ort.Tensor("float32", image_CHW, [1, 3, height, width]);
    const made = (await session.run({ [settings.input]: image }))[settings.output];
    const made_CHW = await made.getData();
    made.dispose();
    return made_CHW;
  };
}

/** Returns the pixels of a bitmap at a size: `shown` with alpha, and `read`, as the network sees them: on white. */
async function draw(bitmap, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true }); // in main memory: exact
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const shown = context.getImageData(0, 0, width, height);
  context.globalCompositeOperation = "destination-over";
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  return { shown, read: context.getImageData(0, 0, width, height) };
}

/** Translates a picture without alpha; returns it as `made`, and the milliseconds that the network took. */
async function translate({ data, width, height }) {
  const image_CHW = toNetwork(data, width, height);
  const begin = performance.now();
  const made_CHW = await run(image_CHW, enlarged(height), enlarged(width));
  const milliseconds = performance.now() - begin;
  return { made: fromNetwork(made_CHW, width, height), milliseconds };
}

const enlarged = side => Math.ceil(side / settings.size_step) * settings.size_step;

/** Returns which pixel of a side stands at a place beyond it, by reflection: 0 1 2 3 | 2 1 0. */
function reflected(place, side) {
  const period = Math.max(1, 2 * (side - 1));
  return Math.min(place % period, period - (place % period));
}

/** Returns a picture as the network reads it, at whole size steps: [3, H, W] in [-1, 1]. */
function toNetwork(data, width, height) {
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

const actions = { start, draw, translate };

self.addEventListener("message", async ({ data: [name, ...given] }) => {
  try {
    const value = await actions[name](...given);
    const pictures = Object.values(value ?? {}).filter(each => each instanceof ImageData);
    self.postMessage({ value }, { transfer: pictures.map(each => each.data.buffer) });
  } catch (error) {
    self.postMessage({ error: String(error?.message ?? error), refused: error instanceof Refusal });
  }
});
