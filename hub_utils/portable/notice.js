// The medical notice: the page comes when somebody says that they have understood. Gradio runs this once.

const notice = element.querySelector(".medical-notice");
const [whole, short, yes, again, title] = [".whole", ".short", ".understood-button", ".again", "h2"].map((each) => notice.querySelector(each));

function show(understood) {
  notice.classList.toggle("understood", understood);
  whole.hidden = understood;
  short.hidden = !understood;
}

yes.addEventListener("click", () => {
  show(true);
  // To what came into sight; a screen reader goes on reading there.
  const focusable = document.querySelectorAll('.behind-notice :is(button, input, a):not([tabindex="-1"])');
  const first = [...focusable].find((each) => each.checkVisibility({ visibilityProperty: true }));
  (first ?? again).focus();
});
again.addEventListener("click", () => {
  show(false);
  title.focus();
});
