// The events of the page: "cell", of the matrix and the list of pairs, and "tick", of the images. Gradio runs this once
// for each of the two, with `element`, which stays when its content changes, and `trigger`.

const table = () => element.querySelector("table.confusion");
// The first row and the first column are heads: -1, any.
const place = (cell) => ({ label: cell.parentElement.rowIndex - 1, prediction: cell.cellIndex - 1 });
const holdsImages = (cell) => cell && (cell.tagName === "TH" || cell.textContent !== "");

function ask(target) {
  const cell = target.closest("table.confusion :is(td, th)");
  const pair = target.closest("[data-label]");
  if (!pair && !holdsImages(cell)) return;
  if (cell) reach(cell);
  const where = pair ? { label: +pair.dataset.label, prediction: +pair.dataset.prediction } : place(cell);
  for (const old of table().querySelectorAll("[aria-selected]")) old.removeAttribute("aria-selected");
  table().rows[where.label + 1].cells[where.prediction + 1].setAttribute("aria-selected", "true");
  trigger("cell", where);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  document.getElementById("bar").scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
}

// The table is one stop of the Tab key; arrows go on to the next cell that holds images.
function reach(cell) {
  table().querySelector("[tabindex='0']")?.removeAttribute("tabindex");
  cell.tabIndex = 0;
  cell.focus({ preventScroll: true });
  cell.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function walk(cell, down, right) {
  let [row, column] = [cell.parentElement.rowIndex, cell.cellIndex];
  let next;
  do next = table().rows[(row += down)]?.cells[(column += right)];
  while (next && !holdsImages(next));
  if (next) reach(next);
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

element.addEventListener("keydown", (event) => {
  const cell = event.target.closest("table.confusion :is(td, th)");
  if (!cell) return;
  if (event.key in ARROWS) walk(cell, ...ARROWS[event.key]);
  else if (event.key === "Enter" || event.key === " ") ask(cell);
  else return;
  event.preventDefault();
});

function read(event) {
  const told = event.target.closest("table.confusion [aria-label]");
  if (told) element.querySelector(".readout").textContent = told.getAttribute("aria-label");
}

element.addEventListener("click", (event) => ask(event.target));
element.addEventListener("mouseover", read);
element.addEventListener("focusin", read);
element.addEventListener("change", (event) => {
  const { number } = event.target.dataset;
  if (number !== undefined) trigger("tick", { number: +number });
});
