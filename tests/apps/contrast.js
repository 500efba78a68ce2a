// Returns the visible texts whose contrast with what lies behind them is below 4.5 (WCAG 2.2, 1.4.3).
() => {
  const channels = (text) => (text.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const luminance = ([r, g, b]) =>
    0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, a = 1] = channels(getComputedStyle(at).backgroundColor);
      if (a > 0.9) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const pale = [];
  for (const element of document.querySelectorAll("#tp-main *, #tp-top *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.offsetParent || element.closest("[disabled], .tp-live")) continue;
    const style = getComputedStyle(element);
    if (style.visibility === "hidden" || style.opacity < 0.9) continue;
    const pair = [luminance(channels(style.color)), luminance(behind(element))];
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    const text = element.textContent.trim().slice(0, 40);
    if (contrast < 4.5) pale.push(`${contrast.toFixed(2)} ${element.tagName}.${element.className} ${text}`);
  }
  return pale;
}
