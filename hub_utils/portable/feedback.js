// "Is this wrong?", below an answer. Gradio runs this once. Nothing leaves the browser before the button is pressed.

const form = element.querySelector("form");
const section = element.querySelector(".feedback");
const [choice, consent, button, told] = ["select", 'input[type="checkbox"]', "button", ".told"].map((each) => form.querySelector(each));
const page = element.closest('[role="tabpanel"]') ?? document.body;
const NONE = "none of these";
let turn = 0;
let of = null; // the answer that the form is about
let busy = false;

function ready() {
  button.disabled = busy || !consent.checked || !choice.value;
}

function follow() {
  const back = page.querySelector(".feedback-told [data-turn]");
  if (busy && back?.dataset.turn === String(turn)) {
    told.textContent = back.textContent;
    busy = false;
    form.classList.toggle("sent", back.textContent.startsWith("Thank"));
  }
  const answer = page.querySelector(".one-picture .answer");
  const labels = [...(answer?.querySelectorAll(".every li span") ?? [])].map((each) => each.textContent);
  section.hidden = !labels.length;
  if (!labels.length || of === answer.dataset.turn) return;
  of = answer.dataset.turn;
  choice.replaceChildren(new Option("choose …", ""), ...labels.slice(1).map((label) => new Option(label, label)), new Option(NONE, NONE));
  consent.checked = false; // for each picture anew
  told.textContent = "";
  form.classList.remove("sent");
  section.querySelector("details").open = false;
  ready();
}

new MutationObserver(follow).observe(page, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-turn"] });
form.addEventListener("change", ready);

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (button.disabled) return;
  busy = true;
  ready();
  told.textContent = "Sending …";
  const mine = String(++turn);
  try {
    const found = await (await fetch(page.querySelector(".one-picture .frame img").src)).blob();
    const lot = crypto.getRandomValues(new Uint32Array(4)).join("-");
    const { path } = await upload(new File([found], lot, { type: found.type }));
    trigger("send", { turn: mine, consent: consent.checked, label: choice.value, path });
  } catch {
    busy = false;
    told.textContent = "It was not sent: the connection broke. Try again.";
    ready();
  }
});
follow();
