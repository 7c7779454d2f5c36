// Links to the files of a song, in the chosen format.

import { make } from "./dom.js";

const FORMATS = {
  wav: "WAV, 32-bit float",
  flac: "FLAC, 24 bits",
  mp3: "MP3, 256 kbit/s",
};

export class Downloads {
  constructor(player) {
    const { song, url } = player;
    this.url = url;
    this.links = []; // link, address and words for a format
    this.format = make("select", { "aria-label": "Format of downloads", onchange: () => this.show() },
      ...song.formats.map((form) => make("option", { value: form }, FORMATS[form])));
    this.levels = [];
    const mix = this.link("mix", () => `remix?levels=${this.levels.join(",")}&`, () => "My mix",
      "The mix at the current levels; WAV has 24 bits");
    const several = song.models.length > 1;
    const models = song.models.flatMap((model, number) => {
      const of = several ? ` of ${model}` : "";
      const zip = this.link("", () => `models/${number}/zip?`, () => `All stems${of} (zip)`);
      return song.stemMp4
        ? [zip, make("a", {
          class: "get", href: `${url}/models/${number}/stem.mp4`, download: true,
          title: "One file for DJ programs and musdb",
        }, `↓ All stems${of} (stem.mp4)`)]
        : [zip];
    });
    this.element = make("div", { class: "downloads" },
      make("label", { class: "format" }, "Format ", this.format), mix, ...models);
    this.show();
  }

  link(kind, address, words, title = "") {
    const link = make("a", { class: `get ${kind}`, download: true, title });
    this.links.push({ link, address, words });
    return link;
  }

  /** Link to a track. */
  stem(number, spoken) {
    const link = this.link("", () => `stems/${number}?`, (form) => form.toUpperCase());
    link.setAttribute("aria-label", `Download ${spoken}`);
    link.title = `Download ${spoken}`;
    this.show();
    return link;
  }

  setGains(gains) {
    this.levels = gains.map((gain) => gain.toFixed(5));
    this.show();
  }

  show() {
    const form = this.format.value;
    for (const { link, address, words } of this.links) {
      link.href = `${this.url}/${address()}form=${form}`;
      link.textContent = `↓ ${words(form)}`;
    }
  }
}
