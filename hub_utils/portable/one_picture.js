// The picture, and the heat map over it. Gradio runs this once, with `element`, `trigger` and `upload`.

const page = element.closest(".one-picture");
const find = (selector) => element.querySelector(selector);
const [stage, frame, image, video, canvas] = [".stage", ".frame", "img", "video", "canvas"].map(find);
const [file, heat, aloud] = ['input[type="file"]', ".heat", ".aloud"].map(find);
const CELLS = 96; // of the drawn map, along each side; the browser scales it to the picture
const PAUSE = 400; // milliseconds at least between two looks through the camera
const PATIENCE = 30_000; // milliseconds: an answer that did not come by then is not waited for
const PAUSES = [2, 4, 8, 16]; // seconds after which a page that is busy is asked again, half as long or half again
let turn = 0; // which picture this is: an answer to an earlier one comes too late
let drawn = 0; // the last one whose answer is shown
let asked = 0; // the last one that the model was asked about
let question = null; // what it was asked
let tries = 0;
let answered = () => {};
let answering = null; // until its answer is there
let unshown = false; // the browser cannot show the file
let stream = null;

// Sending

async function ask(picture, live = false) {
  const mine = ++turn;
  tries = 0;
  if (!live) {
    page.classList.add("busy");
    show(picture);
  }
  const path = picture.size <= +stage.dataset.limit ? await sent(picture, () => mine === turn) : undefined;
  await tell(mine, path ? { path } : { size: picture.size });
}

// Where it lies there. A page that is busy takes nothing (503), and is asked again while the answer is still wanted.
async function sent(picture, wanted) {
  for (const pause of [...PAUSES, 0]) {
    try {
      // Under its own name nobody else's picture is in the way, and no name of a file tells anything.
      return (await upload(new File([picture], name(picture), { type: picture.type }))).path;
    } catch (error) {
      if (!pause || !/\b503\b/.test(error?.message)) return;
    }
    await rest(pause);
    if (!wanted()) return;
  }
}

// By lot: those who were sent away together do not come back together.
const rest = (seconds) => new Promise((over) => setTimeout(over, 1000 * seconds * (0.5 + Math.random())));

// Whether it is asked again: the page was busy.
function again() {
  if (answer().dataset.busy === undefined) return false;
  if (tries === PAUSES.length) {
    answer().querySelector("i")?.remove();
    return false;
  }
  const mine = turn;
  rest(PAUSES[tries++]).then(() => mine === turn && tell(++turn, question));
  return true;
}

// One at a time: of two answers under way the earlier could come last, and stay.
async function tell(mine, what) {
  await answering;
  if (mine !== turn) return;
  asked = mine;
  question = what;
  answering = new Promise((resolve) => {
    answered = resolve;
    setTimeout(resolve, PATIENCE);
  });
  trigger("picture", { turn: String(mine), ...what });
  await answering;
}

function name(picture) {
  const lot = crypto.getRandomValues(new Uint32Array(4)).join("-");
  return lot + (picture.name?.match(/\.\w{1,5}$/)?.[0] ?? "");
}

// Showing

function show(picture) {
  stop();
  if (image.src) URL.revokeObjectURL(image.src);
  canvas.hidden = true;
  unshown = false;
  image.src = URL.createObjectURL(picture);
}

function fit(width, height) {
  frame.style.setProperty("--width", width);
  frame.style.setProperty("--height", height);
  frame.classList.toggle("tiny", Math.max(width, height) < 100);
  frame.hidden = false;
  stage.classList.add("full");
  find(".unseen").hidden = true;
}

function empty() {
  frame.hidden = heat.hidden = find(".unseen").hidden = true;
  stage.classList.remove("full");
}

image.addEventListener("load", () => fit(image.naturalWidth, image.naturalHeight));
image.addEventListener("error", () => {
  unshown = true;
  frame.hidden = true;
  explain();
});

// Of what is refused, the answer says why; the stage has nothing to add.
function explain() {
  if (!unshown || drawn !== turn) return;
  const refused = answer().classList.contains("problem");
  stage.classList.toggle("full", !refused);
  find(".unseen").hidden = refused;
}

// The answer

const answer = () => page.querySelector(".answer");

function arrived() {
  if (answer()?.dataset.turn === String(asked)) answered();
  if (drawn === turn || answer()?.dataset.turn !== String(turn)) return;
  drawn = turn;
  if (!again()) page.classList.remove("busy");
  const { said = "" } = answer().dataset;
  if (aloud.textContent !== said && !stream) aloud.textContent = said;
  explain();
  choose(0);
}

new MutationObserver(arrived).observe(page, { subtree: true, attributes: true, attributeFilter: ["data-turn"], childList: true });

function choose(number) {
  const { maps, shape, seen } = answer().dataset;
  heat.hidden = canvas.hidden = !maps;
  if (!maps) return;
  for (const each of page.querySelectorAll("[data-class]"))
    each.setAttribute("aria-pressed", String(+each.dataset.class === number));
  heat.querySelector("b").textContent = page.querySelector(`[data-class="${number}"] span`).textContent;
  const [height, width] = shape.split(",").map(Number);
  const levels = Uint8Array.from(atob(maps), (each) => each.charCodeAt(0));
  draw(levels.subarray(number * height * width, (number + 1) * height * width), height, width);
  const [left, top, right, bottom] = seen.split(",").map((share) => `${100 * share}%`);
  Object.assign(canvas.style, { left, top, width: `calc(${right} - ${left})`, height: `calc(${bottom} - ${top})` });
}

// Each cell spreads over its neighbours like a drop: squares of 32 pixels would claim borders that nobody found.
function spread(cells) {
  return Array.from({ length: CELLS }, (_, at) => {
    const weights = Array.from({ length: cells }, (_, cell) => Math.exp(-(((at + 0.5) / CELLS * cells - cell - 0.5) ** 2) / 0.6));
    const sum = weights.reduce((a, b) => a + b);
    return weights.map((weight) => weight / sum);
  });
}

function draw(levels, height, width) {
  const [down, across] = [spread(height), spread(width)];
  canvas.width = canvas.height = CELLS;
  const context = canvas.getContext("2d");
  const picture = context.createImageData(CELLS, CELLS);
  for (let y = 0; y < CELLS; y++)
    for (let x = 0; x < CELLS; x++) {
      let level = 0;
      for (let row = 0; row < height; row++)
        for (let column = 0; column < width; column++) level += down[y][row] * across[x][column] * levels[row * width + column];
      picture.data.set(colour(level / 255), 4 * (y * CELLS + x));
    }
  context.putImageData(picture, 0, 0);
}

// From a veil of night over what says nothing to a clear warm glow over what speaks most: told apart by lightness alone.
const STOPS = [[20, 16, 48, 220], [70, 20, 110, 205], [190, 40, 110, 180], [255, 120, 40, 150], [255, 225, 90, 135]];

function colour(level) {
  const place = Math.min(Math.max(level, 0), 0.9999) * (STOPS.length - 1);
  const [low, high] = [STOPS[Math.floor(place)], STOPS[Math.floor(place) + 1]];
  return low.map((value, index) => value + (high[index] - value) * (place % 1));
}

page.addEventListener("click", (event) => {
  const bar = event.target.closest("[data-class]");
  if (bar) choose(+bar.dataset.class);
});
const cover = () => frame.style.setProperty("--cover", heat.querySelector("input").value / 100);
heat.addEventListener("input", cover);
cover();

// The ways in

const view = find(".view");
find(".choose").addEventListener("click", () => file.click());
view.addEventListener("click", () => stage.classList.contains("full") || file.click());
file.addEventListener("change", () => {
  if (file.files[0]) ask(file.files[0]);
  file.value = "";
});

const seen = () => view.offsetParent !== null; // and not on a tab behind
const dropped = (event) => [...(event.dataTransfer?.files ?? [])][0];
for (const type of ["dragover", "drop", "dragleave"])
  document.addEventListener(type, (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault(); // or the browser leaves the page to open the file, on any tab
    if (!seen()) return;
    stage.classList.toggle("over", type === "dragover");
    if (type === "drop" && dropped(event)) ask(dropped(event));
  });

document.addEventListener("paste", (event) => {
  const pasted = [...(event.clipboardData?.files ?? [])][0];
  if (!seen() || !pasted) return;
  event.preventDefault();
  ask(pasted);
});

element.addEventListener("click", async (event) => {
  const example = event.target.closest("[data-example]");
  if (!example) return;
  const root = window.gradio_config?.root ?? "";
  const found = await fetch(`${root}/gradio_api/file=${example.dataset.example}`);
  ask(new File([await found.blob()], example.dataset.example.split("/").pop()));
});

// The camera answers all the time; "Take this one" keeps the picture.

const doors = { choose: find(".choose"), camera: find(".camera"), take: find(".take"), stop: find(".stop") };
doors.camera.hidden = !navigator.mediaDevices?.getUserMedia;

function doorsOpen(live) {
  doors.choose.hidden = live;
  doors.camera.hidden = live || !navigator.mediaDevices?.getUserMedia;
  doors.take.hidden = doors.stop.hidden = !live;
  image.hidden = live;
  video.hidden = !live;
}

function stop() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  doorsOpen(false);
}

// The stage is empty again, and so is the answer; or it is a sentence, of what keeps the camera from working.
function leave(problem) {
  stop();
  empty();
  page.classList.remove("busy");
  tell(++turn, { camera: problem });
}

const still = () =>
  new Promise((resolve) => {
    const picture = document.createElement("canvas");
    [picture.width, picture.height] = [video.videoWidth, video.videoHeight];
    picture.getContext("2d").drawImage(video, 0, 0);
    picture.toBlob((blob) => resolve(new File([blob], "camera.jpg", { type: "image/jpeg" })), "image/jpeg", 0.92);
  });

doors.camera.addEventListener("click", async () => {
  let mine;
  try {
    mine = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    stop(); // one that was opened meanwhile
    stream = video.srcObject = mine;
    await video.play();
  } catch (error) {
    if (stream === (mine ?? null)) leave(error.name);
    return;
  }
  if (stream !== mine) return; // a picture was given meanwhile
  mine.getVideoTracks()[0].addEventListener("ended", () => leave("ended")); // unplugged, or taken back
  canvas.hidden = true;
  doorsOpen(true);
  fit(video.videoWidth, video.videoHeight);
  doors.take.focus();
  while (stream === mine) {
    const picture = await still();
    if (stream !== mine) break;
    await Promise.all([ask(picture, true), new Promise((resolve) => setTimeout(resolve, PAUSE))]);
  }
});
doors.take.addEventListener("click", async () => {
  const picture = await still();
  if (!stream) return;
  ask(picture);
  doors.camera.focus(); // the button that had it is gone
});
doors.stop.addEventListener("click", () => {
  leave("stopped");
  doors.camera.focus();
});
