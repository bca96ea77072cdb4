// Many pictures: dropped or chosen, uploaded a few at a time, and the table put in order. Gradio runs this once.

const page = element.closest(".many-pictures");
const find = (selector) => element.querySelector(selector);
const [stage, view, running, bar, said, aloud, file, choose, halt] =
  [".stage", ".view", ".running", "progress", ".how-far", ".aloud", 'input[type="file"]', ".choose", ".halt"].map(find);
const AT_ONCE = 4; // uploads
const PAUSES = [2, 4, 8, ...Array(20).fill(30)]; // seconds after which a page that is busy is asked again, about ten minutes
let turn = 0;
let question = null; // what was asked
let tries = 0;
let busy = false;
let stopped = false;

function say(words, share) {
  if (said.textContent !== words) said.textContent = words; // or the observer below would hear of it for ever
  if (share === undefined) bar.removeAttribute("value");
  else bar.value = share;
}

function work(now) {
  busy = now;
  page.classList.toggle("working", now);
  const lost = [choose, halt, document.body].includes(document.activeElement); // where the focus is, it shall not vanish
  running.hidden = halt.hidden = !now;
  choose.hidden = now;
  if (lost) (now ? halt : choose).focus({ preventScroll: true });
}

// Under a name drawn by lot nobody else's picture is in the way, and deleting it deletes no other.
function renamed(picture) {
  const lot = crypto.getRandomValues(new Uint32Array(4)).join("-");
  return new File([picture], lot + (picture.name.match(/\.\w{1,5}$/)?.[0] ?? ""), { type: picture.type });
}

// Where it lies there. A page that is busy takes nothing (503), and is asked again.
async function sent(picture) {
  for (const pause of PAUSES) {
    try {
      return (await upload(renamed(picture))).path;
    } catch (error) {
      if (stopped || !/\b503\b/.test(error?.message)) return;
    }
    await rest(pause);
  }
}

// By lot: those who were sent away together do not come back together.
const rest = (seconds) => new Promise((over) => setTimeout(over, 1000 * seconds * (0.5 + Math.random())));

async function send(pictures) {
  const files = pictures.map(({ name }) => ({ name, stopped: true }));
  let next = 0;
  let done = 0;
  const some = async () => {
    while (next < pictures.length && !stopped) {
      const at = next++;
      const { name, picture } = pictures[at];
      const limit = /\.zip$/i.test(name) ? +stage.dataset.zip : +stage.dataset.limit;
      files[at] = { name, size: picture.size };
      // What is too large is not sent; its row says so.
      if (picture.size <= limit) files[at].path = await sent(picture);
      say(`Sending ${++done} of ${pictures.length}`, done / pictures.length);
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, some));
  return files;
}

async function begin(pictures) {
  if (busy || !pictures.length) return;
  const mine = String(++turn);
  stopped = false;
  work(true);
  const most = +stage.dataset.most;
  say(`Sending ${Math.min(pictures.length, most)} files`, 0);
  const files = pictures.length > most ? [] : await send(pictures);
  say("Waiting for the model");
  question = { files, count: pictures.length };
  tries = 0;
  trigger("pictures", { turn: mine, ...question });
  if (stopped) trigger("halt", { turn: mine });
}

function arrived() {
  const far = page.querySelector(".told-how-far [data-turn]");
  if (busy && far?.dataset.turn === String(turn)) say(far.textContent, far.dataset.done / far.dataset.of);
  const answer = page.querySelector(".many-results, .answer");
  if (!busy || answer?.dataset.turn !== String(turn)) return;
  aloud.textContent = answer.dataset.said;
  if (!again(answer)) work(false);
}

// Whether it is asked again: the page was busy.
function again(answer) {
  if (answer.dataset.busy === undefined) return false;
  if (stopped || tries === PAUSES.length) {
    answer.querySelector("i")?.remove();
    return false;
  }
  const mine = ++turn;
  rest(PAUSES[tries++]).then(() => {
    if (mine !== turn) return;
    trigger("pictures", { turn: String(mine), ...question });
    if (stopped) trigger("halt", { turn: String(mine) });
  });
  return true;
}

new MutationObserver(arrived).observe(page, { subtree: true, childList: true, characterData: true, attributes: true, attributeFilter: ["data-turn", "data-done"] });

halt.addEventListener("click", () => {
  stopped = true;
  say("Stopping");
  trigger("halt", { turn: String(turn) });
});

// The ways in

choose.addEventListener("click", () => file.click());
file.addEventListener("change", () => {
  begin([...file.files].map((picture) => ({ name: picture.name, picture })));
  file.value = "";
});

async function inside(entry, path = "") {
  if (!entry || entry.name.startsWith(".")) return [];
  const name = path + entry.name;
  if (entry.isFile) return [{ name, picture: await new Promise((found, gone) => entry.file(found, gone)) }];
  const reader = entry.createReader();
  const all = [];
  for (;;) {
    const some = await new Promise((found, gone) => reader.readEntries(found, gone));
    if (!some.length || all.length > +stage.dataset.most) return all;
    for (const each of some) all.push(...(await inside(each, `${name}/`)));
  }
}

const seen = () => element.offsetParent !== null;
for (const type of ["dragover", "drop", "dragleave"])
  document.addEventListener(type, async (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    if (!seen()) return;
    stage.classList.toggle("over", type === "dragover");
    if (type !== "drop") return;
    const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.());
    const files = [...event.dataTransfer.files].map((picture) => ({ name: picture.name, picture }));
    if (!entries.some((entry) => entry?.isDirectory)) return begin(files);
    begin((await Promise.all(entries.map((entry) => inside(entry)))).flat());
  });

// The table's order

const by = {
  at: (row) => +row.dataset.at,
  sure: (row) => +row.dataset.sure,
  label: (row) => row.querySelector(".label")?.textContent ?? "\uffff",
  name: (row) => row.querySelector("th").textContent,
};
page.addEventListener("change", (event) => {
  const key = by[event.target.value];
  const body = page.querySelector(".many-results tbody");
  if (!event.target.closest(".order") || !body) return;
  const compare = new Intl.Collator(undefined, { numeric: true }).compare;
  const order = (a, b) => (typeof a === "number" ? a - b : compare(a, b));
  const rows = [...body.rows].map((row) => [key(row), +row.dataset.at, row]);
  rows.sort((a, b) => order(a[0], b[0]) || a[1] - b[1]);
  body.append(...rows.map((each) => each[2]));
});
