// Sends files as they lie on the visitor's machine to the app's uploads, a batch at a time, and tells their places.
const MOST = 3000, FILES = 200, BYTES = 64e6;
const zone = element.querySelector(".tp-drop");
const bar = zone.querySelector("progress"), told = zone.querySelector(".tp-sent");
const buttons = [...zone.querySelectorAll(".tp-pick")];
let busy = false;

const wait = (ms) => new Promise((done) => setTimeout(done, ms));
const post = (batch, before, all) => new Promise((done, fail) => {
  const form = new FormData();
  batch.forEach(({ file }) => form.append("files", file, file.name));
  const call = new XMLHttpRequest();
  call.open("POST", "./gradio_api/upload");
  call.upload.onprogress = (event) => { bar.value = Math.min(1, (before + event.loaded) / all); };
  call.onload = () => done(call);
  call.onerror = () => fail(new Error("The connection was lost; send the set again."));
  call.send(form);
});

const send = async (items) => {
  items = items.filter(({ file, place }) => !place.split("/").some((part) => part.startsWith(".")));
  if (busy || !items.length) return;
  if (items.length > MOST) {
    told.textContent = `These are ${items.length} files; send more than ${MOST} as one zip archive.`;
    return;
  }
  busy = true;
  buttons.forEach((button) => { button.disabled = true; });
  bar.hidden = false;
  bar.value = 0;
  const all = items.reduce((sum, { file }) => sum + file.size, 1);
  told.textContent = `Sending ${items.length === 1 ? items[0].file.name : `${items.length} files`} …`;
  try {
    const files = [];
    let before = 0;
    for (let at = 0; at < items.length;) {
      const batch = [items[at]];
      let size = items[at].file.size;
      at += 1;
      while (at < items.length && batch.length < FILES && size + items[at].file.size <= BYTES) {
        size += items[at].file.size;
        batch.push(items[at]);
        at += 1;
      }
      let reply = await post(batch, before, all);
      for (let tries = 0; reply.status === 429 && tries < 30; tries += 1) {
        told.textContent = "Sending, as fast as the app allows …";
        await wait(1000 * Math.min(30, Number(reply.getResponseHeader("retry-after")) || 5));
        reply = await post(batch, before, all);
      }
      if (reply.status !== 200) throw new Error(reply.responseText.slice(0, 200) || "It was refused.");
      JSON.parse(reply.responseText).forEach((path, place) => files.push({ path, place: batch[place].place }));
      before += size;
    }
    told.textContent = "Sent.";
    trigger("select", { files });
  } catch (error) {
    told.textContent = `Not sent: ${error.message}`;
  } finally {
    busy = false;
    bar.hidden = true;
    buttons.forEach((button) => { button.disabled = false; });
  }
};

const walk = async (entry, above) => {
  if (entry.isFile) {
    const file = await new Promise((done, fail) => entry.file(done, fail));
    return [{ file, place: above + file.name }];
  }
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((done, fail) => reader.readEntries(done, fail));
    if (!some.length) return found;
    for (const one of some) found.push(...await walk(one, `${above}${entry.name}/`));
  }
};

buttons.forEach((button) => button.addEventListener("click", () => {
  zone.querySelector(`[data-input="${button.dataset.pick}"]`).click();
}));
zone.querySelectorAll("input").forEach((input) => input.addEventListener("change", () => {
  const items = [...input.files].map((file) => ({ file, place: file.webkitRelativePath || file.name }));
  input.value = "";
  send(items);
}));
for (const name of ["dragover", "dragleave", "drop"]) {
  zone.addEventListener(name, (event) => {
    event.preventDefault();
    zone.classList.toggle("tp-over", name === "dragover");
  });
}
zone.addEventListener("drop", async (event) => {
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry()).filter(Boolean);
  const items = [];
  for (const entry of entries) items.push(...await walk(entry, ""));
  send(items);
});
