// A field to draw in, and its event "drawn", after each stroke: the drawing, black on white, as a PNG; none if it is
// empty; `turn` comes back with the answer. Gradio runs this once, with `element` and `trigger`.

const page = element.closest(".drawing");
const aloud = element.querySelector(".aloud");
const canvas = element.querySelector("canvas");
const pen = canvas.getContext("2d");
const PEN = 0.06; // of the field's width
let strokes = []; // of points, as shares of the field
let drawing = null; // the pointer that draws
let turn = 0; // which drawing this is: an answer to an earlier one comes too late
const PAUSES = [2, 4, 8, 16]; // seconds after which a page that is busy is asked again, half as long or half again
let tries = 0;

function paint(stroke) {
  pen.lineWidth = PEN * canvas.width;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  const [x, y] = stroke[0];
  pen.moveTo(x * canvas.width - 0.1, y * canvas.height); // a line of no length would not be drawn, and a dot is one
  for (const [x, y] of stroke) pen.lineTo(x * canvas.width, y * canvas.height);
  pen.stroke();
}

function show() {
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  strokes.forEach(paint);
  element.querySelector(".hint").hidden = strokes.length > 0;
}

function tell(anew = true) {
  if (anew) tries = 0;
  page.classList.add("busy");
  const png = strokes.length ? canvas.toDataURL("image/png").split(",")[1] : "";
  trigger("drawn", { turn: String(++turn), png });
}

function place(event) {
  const field = canvas.getBoundingClientRect();
  return [(event.clientX - field.left) / field.width, (event.clientY - field.top) / field.height];
}

canvas.addEventListener("pointerdown", (event) => {
  if (drawing !== null || event.button !== 0) return; // a second finger, the right button
  drawing = event.pointerId;
  canvas.setPointerCapture(drawing); // a stroke may leave the field and come back
  strokes.push([place(event)]);
  show();
  event.preventDefault();
});

canvas.addEventListener("pointermove", (event) => {
  if (event.pointerId !== drawing) return;
  const passed = event.getCoalescedEvents?.() ?? [];
  strokes.at(-1).push(...(passed.length ? passed : [event]).map(place));
  show();
});

for (const end of ["pointerup", "pointercancel"])
  canvas.addEventListener(end, (event) => {
    if (event.pointerId !== drawing) return;
    drawing = null;
    tell();
  });

function change(left) {
  if (!strokes.length) return;
  strokes = left;
  show();
  tell();
}

// A file that is dropped here is none to draw on; the browser would leave the page to open it.
for (const type of ["dragover", "drop"])
  document.addEventListener(type, (event) => {
    if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
  });

// Whether it is asked again: the page was busy.
let asking = 0; // the drawing that will be sent again
function again() {
  const answer = page.querySelector(".answer");
  if (answer.dataset.busy === undefined) return false;
  if (asking === turn) return true;
  if (tries === PAUSES.length) {
    answer.querySelector("i")?.remove();
    return false;
  }
  const mine = (asking = turn);
  setTimeout(() => mine === turn && tell(false), 1000 * PAUSES[tries++] * (0.5 + Math.random()));
  return true;
}

element.querySelector(".undo").addEventListener("click", () => change(strokes.slice(0, -1)));
element.querySelector(".clear").addEventListener("click", () => change([]));
// The answer to the last stroke is said aloud, too.
new MutationObserver(() => {
  const { turn: answered, said = "" } = page.querySelector(".answer")?.dataset ?? {};
  if (answered !== String(turn) || again()) return;
  page.classList.remove("busy");
  if (aloud.textContent !== said) aloud.textContent = said;
}).observe(page, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-turn"] });

show();
