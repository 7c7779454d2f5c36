// Elements and words that several modules share.

/** Create an element: tag, attributes ("on..." are listeners), children. */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** Minutes and seconds, with decimals if the step of a scale is below a second. */
export function clock(seconds, decimals = 0) {
  const scale = 10 ** decimals;
  const units = Math.floor(seconds * scale + 1e-6);
  const minutes = Math.floor(units / scale / 60);
  const rest = (units / scale - 60 * minutes).toFixed(decimals);
  return `${minutes}:${rest.padStart(decimals ? decimals + 3 : 2, "0")}`;
}

/** Scroll to an element, unless its beginning is in the upper part of the window. */
export function reveal(element) {
  const { top } = element.getBoundingClientRect();
  if (top >= 0 && top < 0.5 * innerHeight) return;
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element.scrollIntoView({ behavior: still ? "auto" : "smooth", block: "start" });
}
