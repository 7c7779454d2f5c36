// Faults of the page as it is shown: overflow, poor contrast, and small buttons on phones.
const LEAST_CONTRAST = 4.5;
const LEAST_PIXELS = 44;
const IS_PHONE = innerWidth < 500;
// Drawn over pictures, cut off on purpose, or Gradio's parts of a larger control.
const NO_TEXTS = ".frequencies *, :disabled, [hidden] *";
const CUT_OFF = ".axis *, .strip *";
const SMALL = ".icon-button, .download-link, [type=radio], [type=file], [role=combobox], textarea";

const pixel = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

function rgba(colour) {
  pixel.clearRect(0, 0, 1, 1);
  pixel.fillStyle = colour;
  pixel.fillRect(0, 0, 1, 1);
  const [red, green, blue, alpha] = pixel.getImageData(0, 0, 1, 1).data;
  return [red, green, blue, alpha / 255];
}

function over([red, green, blue, alpha], ground) {
  return [red, green, blue].map((value, n) => value * alpha + ground[n] * (1 - alpha));
}

function ancestors(element) {
  return element ? [...ancestors(element.parentElement), element] : [];
}

function contrast(element) {
  const chain = ancestors(element).map((each) => getComputedStyle(each));
  const ground = chain.reduce((below, style) => over(rgba(style.backgroundColor), below), [255, 255, 255]);
  const text = rgba(chain.at(-1).color);
  text[3] *= chain.reduce((product, style) => product * Number(style.opacity), 1);
  const luminance = (colour) => colour
    .map((value) => value / 255)
    .map((value) => (value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, n) => sum + value * [0.2126, 0.7152, 0.0722][n], 0);
  const [low, high] = [luminance(over(text, ground)), luminance(ground)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

const faults = [];
if (document.documentElement.scrollWidth > innerWidth) faults.push("the page is too wide");
for (const element of document.querySelectorAll("body *")) {
  const box = element.getBoundingClientRect();
  if (box.width < 2 || box.height < 2 || !element.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
  const name = `${element.tagName} ${element.getAttribute("class")} "${(element.innerText ?? "").slice(0, 20)}"`;
  if (box.right > innerWidth + 0.5 && !element.matches(CUT_OFF)) faults.push(`outside: ${name}`);
  const hasText = [...element.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  if (hasText && !element.matches(NO_TEXTS) && contrast(element) < LEAST_CONTRAST) {
    faults.push(`contrast ${contrast(element).toFixed(2)}: ${name}`);
  }
  const pressed = element.matches("button, a, input, select, summary") && !element.matches(SMALL);
  if (IS_PHONE && pressed && Math.min(box.width, box.height) < LEAST_PIXELS - 0.5) {
    faults.push(`${box.width} x ${box.height} pixels: ${name}`);
  }
}
return faults;
