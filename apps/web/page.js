// What the page does by itself: light or dark, keys, copying, and bringing answers into view on a phone.
(() => {
  const stored = () => { try { return localStorage.getItem("triptych-theme"); } catch { return null; } };
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (stored() ?? (system.matches ? "dark" : "light")) === "dark";
  const paint = () => {
    document.documentElement.classList.toggle("dark", dark());
    document.body?.classList.toggle("dark", dark());
  };
  const shown = (element) => element && element.offsetParent !== null && !element.disabled;
  const press = (selector) => {
    const element = document.querySelector(selector);
    if (shown(element)) element.click();
    return shown(element);
  };
  const typing = (target) => target.closest?.("input:not([type=checkbox]):not([type=radio]), textarea, select, [contenteditable=true]");

  document.documentElement.lang = "en";
  paint();
  system.addEventListener("change", paint);
  const ready = () => {
    paint();
    const names = { "#tp-picture": "Picture", "#tp-sound": "Recording" };
    new MutationObserver(() => {
      for (const [id, name] of Object.entries(names)) {
        const field = document.querySelector(id);
        if (!field || (field.role === "group" && field.ariaLabel === name)) continue;
        field.role = "group";
        field.ariaLabel = name;
      }
    }).observe(document.body, { childList: true, subtree: true });
    new MutationObserver(() => {
      if (document.body.classList.contains("dark") !== dark()) paint();
    }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", ready);
  else ready();

  document.addEventListener("click", async (event) => {
    if (event.target.closest("#tp-theme")) {
      try { localStorage.setItem("triptych-theme", dark() ? "light" : "dark"); } catch { /* private window */ }
      paint();
    }
    const copy = event.target.closest(".tp-copy");
    if (copy) {
      const text = copy.closest(".tp-panel").querySelector(".tp-text")?.innerText ?? "";
      try {
        await navigator.clipboard.writeText(text);
        copy.classList.add("tp-copied");
        setTimeout(() => copy.classList.remove("tp-copied"), 1200);
      } catch { /* the browser keeps the clipboard closed */ }
    }
    if (event.target.closest("#tp-send, #tp-again") && window.innerWidth < 900) {
      document.querySelector("#tp-answers")?.scrollIntoView({ behavior: "smooth", block: "start" });
    }
  });

  // A picture in the clipboard goes to the picture's field, wherever on the page it is pasted.
  document.addEventListener("paste", (event) => {
    const picture = [...(event.clipboardData?.files ?? [])].find((file) => file.type.startsWith("image/"));
    if (!picture) return;
    event.preventDefault();
    const deliver = (tries) => {
      const field = document.querySelector("#tp-picture input[type=file]");
      if (field) {
        const files = new DataTransfer();
        files.items.add(picture);
        field.files = files.files;
        field.dispatchEvent(new Event("change", { bubbles: true }));
      } else if (tries) {
        if (tries === 20) press("#tp-picture button[aria-label='Remove Image']");
        setTimeout(deliver, 50, tries - 1);
      }
    };
    deliver(20);
  });

  document.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      if (press("#tp-send")) event.preventDefault();
    } else if (event.key === "Escape") {
      press("#tp-stop");
    } else if (!event.ctrlKey && !event.metaKey && !event.altKey && !typing(event.target)) {
      const vote = { t: "tie", b: "both bad", s: "skip" }[event.key.toLowerCase()]
        ?? (/^[1-4]$/.test(event.key) ? String(Number(event.key) - 1) : null);
      if (vote !== null && press(`.tp-vote[data-vote="${vote}"]`)) event.preventDefault();
    }
  }, true);
})();
