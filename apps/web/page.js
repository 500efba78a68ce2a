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

  // The board is drawn anew whenever an answer grows: what must outlive that is put back by `settle`.
  const marked = () => { try { return localStorage.getItem("triptych-marks") === "on"; } catch { return false; } };
  const said = document.createElement("p");
  said.className = "tp-live";
  said.setAttribute("role", "status");
  let draft = null;
  const fields = (board) => [...board.querySelectorAll(".tp-because input, .tp-because select, .tp-because textarea")];
  const remember = (board) => {
    draft = {
      token: board.dataset.token,
      open: board.querySelector(".tp-because").open,
      values: fields(board).map((field) => (field.type === "checkbox" ? field.checked : field.value)),
    };
  };
  const recall = (board) => {
    board.querySelector(".tp-because").open = draft.open;
    fields(board).forEach((field, at) => {
      if (field.type === "checkbox") field.checked = draft.values[at];
      else field.value = draft.values[at];
    });
  };
  // Reports of wrong answers that are being written, by token and place.
  const faults = {};
  const faultKey = (form) => `${form.dataset.fault} ${form.dataset.place}`;
  const words = (form) => [...form.querySelectorAll("textarea")];
  const settle = () => {
    if (!said.isConnected) document.body.append(said);
    document.documentElement.classList.toggle("tp-marked", marked());
    for (const button of document.querySelectorAll(".tp-marks")) {
      if (button.ariaPressed !== String(marked())) button.ariaPressed = String(marked());
    }
    for (const board of document.querySelectorAll(".tp-board:not([data-settled])")) {
      board.dataset.settled = "";
      if (said.textContent !== board.dataset.spoken) said.textContent = board.dataset.spoken;
      for (const form of board.querySelectorAll(".tp-fault")) {
        const kept = faults[faultKey(form)];
        if (kept) { form.open = kept.open; words(form).forEach((field, at) => { field.value = kept.values[at]; }); }
      }
      if (draft && board.dataset.token === draft.token && board.querySelector(".tp-because")) recall(board);
      for (const answer of board.querySelectorAll(".tp-answer")) {
        if (answer.closest(".tp-answering")) answer.scrollTop = answer.scrollHeight;
        else answer.scrollTop = (answer.querySelector(".tp-now")?.offsetTop ?? 0) - answer.offsetTop;
      }
    }
  };
  window.triptych = {
    fault(button) {
      const form = button.closest(".tp-fault");
      const [wrong, right] = words(form).map((field) => field.value);
      return { place: Number(form.dataset.place), token: form.dataset.fault, wrong, right };
    },
    verdict(button) {
      const board = button.closest(".tp-board");
      const all = (selector) => [...board.querySelectorAll(selector)];
      const value = (name) => board.querySelector(`[name=${name}]`)?.value ?? "";
      return {
        vote: button.dataset.vote,
        token: board.dataset.token,
        reasons: all(".tp-reason input:checked").map((box) => box.value),
        scores: all(".tp-score").filter((cell) => cell.value).map((cell) => (
          { place: Number(cell.dataset.place), criterion: cell.dataset.criterion, points: Number(cell.value) }
        )),
        note: value("tp-note"),
        correction: value("tp-correction"),
      };
    },
  };

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
      settle();
    }).observe(document.body, { childList: true, subtree: true });
    new MutationObserver(() => {
      if (document.body.classList.contains("dark") !== dark()) paint();
    }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", ready);
  else ready();

  for (const kind of ["input", "toggle"]) {
    document.addEventListener(kind, (event) => {
      const board = event.target.closest?.(".tp-because")?.closest(".tp-board[data-token]");
      if (board) remember(board);
      const form = event.target.closest?.(".tp-fault");
      if (form) faults[faultKey(form)] = { open: form.open, values: words(form).map((field) => field.value) };
    }, true);
  }

  document.addEventListener("click", async (event) => {
    if (event.target.closest(".tp-marks")) {
      try { localStorage.setItem("triptych-marks", marked() ? "off" : "on"); } catch { /* not remembered */ }
      settle();
    }
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
    if (event.target.closest("#tp-send, #tp-again, #tp-further") && window.innerWidth < 900) {
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
      const follows = event.target.closest?.("#tp-follow");
      if (press(follows ? "#tp-further" : "#tp-send")) event.preventDefault();
    } else if (event.key === "Escape") {
      press("#tp-stop");
    } else if (!event.ctrlKey && !event.metaKey && !event.altKey && !typing(event.target)) {
      const vote = { t: "tie", b: "both bad", s: "skip" }[event.key.toLowerCase()]
        ?? (/^[1-4]$/.test(event.key) ? String(Number(event.key) - 1) : null);
      if (vote !== null && press(`.tp-vote[data-vote="${vote}"]`)) event.preventDefault();
    }
  }, true);

  // Who is signed out meanwhile signs in again and comes back: loading the page anew leads to the form.
  const ask = window.fetch;
  window.fetch = async (...what) => {
    const reply = await ask(...what);
    const last = Number(sessionStorage.getItem("triptych-anew") ?? 0);
    if (reply.status === 401 && Date.now() - last > 60000) {
      sessionStorage.setItem("triptych-anew", String(Date.now()));
      window.location.reload();
    }
    return reply;
  };
})();
