// The form of a mix: sliders show their numbers while they move, and tell the server when they rest.
const read = () => {
  const form = element.querySelector(".mx-form");
  if (!form) return null;
  const weights = {}, settings = {};
  for (const expert of form.querySelectorAll(".mx-expert")) {
    const own = (weights[expert.dataset.expert] = {});
    for (const slider of expert.querySelectorAll("input[type=range]")) {
      if (slider.dataset.own === "1") own[slider.dataset.tower] = slider.valueAsNumber;
    }
  }
  for (const field of form.querySelectorAll("[data-setting]")) {
    const name = field.dataset.setting;
    settings[name] = field.type === "checkbox" ? field.checked : "valueAsNumber" in field && field.type !== "select-one"
      ? field.valueAsNumber : field.value;
  }
  return {
    method: form.querySelector("select[name=method]").value,
    experts: [...form.querySelectorAll("input[name=expert]:checked")].map((box) => box.value),
    settings_of: form.dataset.settingsOf, weights, settings,
  };
};
const show = (slider) => { slider.parentElement.querySelector("output").value = slider.valueAsNumber.toFixed(2); };
const tell = () => { const mix = read(); if (mix) trigger("select", { mix }); };
element.addEventListener("input", (event) => {
  const slider = event.target;
  if (slider.type !== "range") return;
  show(slider);
  const expert = slider.closest(".mx-expert");
  if (!expert) return;
  if (slider.dataset.tower) { slider.dataset.own = "1"; return; }
  for (const other of expert.querySelectorAll('input[data-own="0"]')) { other.value = slider.value; show(other); }
});
element.addEventListener("change", (event) => { if (event.target.closest(".mx-form")) tell(); });
element.addEventListener("click", (event) => {
  const reset = event.target.closest(".mx-reset");
  if (!reset) return;
  const expert = reset.closest(".mx-expert"), main = expert.querySelector('input[data-tower=""]');
  for (const other of expert.querySelectorAll("input[type=range]:not([data-tower=''])")) {
    other.dataset.own = "0"; other.value = main.value; show(other);
  }
  tell();
});
