// Which answers can be explained is read from the board itself, so nothing is known here that is not shown there.
const box = element.querySelector(".tp-why-ask");
const [answer, against] = box.querySelectorAll("select");
const button = box.querySelector("button");
const said = box.querySelector("[role=status]");
let explained = null;

const answers = () => [...document.querySelectorAll("#tp-board .tp-done, #tp-board .tp-stopped")]
  .filter((panel) => panel.querySelector(".tp-text"))
  .map((panel) => ({
    place: panel.dataset.place,
    title: panel.querySelector(".tp-letter").textContent,
    text: panel.querySelector(".tp-text").textContent,
  }));
const fill = (select, options) => {
  const chosen = select.value;
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
};
const others = () => {
  const rest = answers().filter(({ place }) => place !== answer.value);
  fill(against, [["", "by itself"], ...rest.map(({ place, title }) => [place, `rather than ${title}`])]);
};
const settle = () => {
  if (!element.isConnected) return;
  const found = answers();
  const busy = document.querySelector("#tp-board .tp-waiting, #tp-board .tp-answering");
  const key = JSON.stringify(found);
  box.hidden = Boolean(busy) || !found.length;
  const shown = document.querySelector("#tp-explained .tp-why");
  if (shown) {
    shown.hidden = box.hidden || key !== explained;
    if (said.textContent !== shown.dataset.spoken) said.textContent = shown.dataset.spoken;
    button.disabled = shown.hasAttribute("data-running") && !shown.hidden;
  }
  if (box.dataset.key === key) return;
  box.dataset.key = key;
  fill(answer, found.map(({ place, title }) => [place, title]));
  others();
};
answer.addEventListener("change", others);
button.addEventListener("click", () => {
  explained = JSON.stringify(answers());
  trigger("submit", {
    answer: Number(answer.value),
    against: against.value === "" ? null : Number(against.value),
  });
});
new MutationObserver(settle).observe(document.body, { childList: true, subtree: true });
settle();
