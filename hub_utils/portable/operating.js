// The slider over thresholds. Gradio runs this once; nothing is asked of the server.

const section = element.querySelector(".operating");
const find = (selector) => section.querySelector(selector);
const [slider, output, found, alarms, own, circle] = ["input", "output", ".found", ".alarms", ".this", "circle"].map(find);
const points = JSON.parse(section.dataset.points);
const [positive, name, rest] = JSON.parse(section.dataset.names);
const page = element.closest('[role="tabpanel"]') ?? document.body;

const of100 = (share) => {
  const number = Math.round(100 * share);
  if (number === 0 && share > 0) return "fewer than 1";
  if (number === 100 && share < 1) return "more than 99";
  return String(number);
};
const between = (low, high) => (low === null ? "" : ` (${of100(low)} to ${of100(high)})`);
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.01 ? 1 : 0)} %`;

// What does not change is not written, or the observer below would hear of it for ever.
function put(place, words) {
  if (place.textContent !== words) place.textContent = words;
}

// What the picture that is answered now is called; its probabilities stand in the answer.
function probability() {
  const rows = [...page.querySelectorAll(".one-picture .answer .every li > *")];
  const of = (row) => (positive.includes(row.querySelector("span").textContent) ? +row.style.getPropertyValue("--share") : 0);
  return rows.length ? rows.reduce((sum, row) => sum + of(row), 0) : null;
}

function draw() {
  const [threshold, sensitivity, specificity] = points[slider.value];
  put(output, percent(threshold));
  put(found, `Of 100 ${name} ones, ${of100(sensitivity[0])} are found${between(sensitivity[1], sensitivity[2])} and ${of100(1 - sensitivity[0])} are missed.`);
  const [wrong, low, high] = [1 - specificity[0], specificity[2] === null ? null : 1 - specificity[2], specificity[1] === null ? null : 1 - specificity[1]];
  put(alarms, `Of 100 ${rest} ones, ${of100(wrong)} are called ${name}${between(low, high)}.`);
  slider.setAttribute("aria-valuetext", `${output.textContent}. ${found.textContent} ${alarms.textContent}`);
  circle.setAttribute("cx", 100 * wrong);
  circle.setAttribute("cy", 100 - 100 * sensitivity[0]);
  const share = probability();
  const words = share === null ? "" : `This picture, with a probability of ${percent(share)}, is called ${share >= threshold ? name : rest} at this line.`;
  put(own, words);
}

slider.addEventListener("input", draw);
new MutationObserver(draw).observe(page.querySelector(".one-picture") ?? page, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-turn"] });
draw();
