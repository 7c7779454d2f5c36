// Links to the files of a song, in the chosen format.

import { make } from "./dom.js";
import { reason } from "./transport.js";

const FORMATS = {
  wav: "WAV, 32-bit float",
  flac: "FLAC, 24 bits",
  mp3: "MP3, 256 kbit/s",
};

const LONGEST_MS = 600_000; // that a link is busy

export class Downloads {
  constructor(player) {
    const { song, url } = player;
    this.player = player;
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
        ? [zip, this.link("", () => `models/${number}/stem.mp4?`,
          () => `All stems${of} (stem.mp4)`, "One file for DJ programs and musdb")]
        : [zip];
    });
    this.element = make("div", { class: "downloads" },
      make("label", { class: "format" }, "Format ", this.format), mix, ...models);
    this.show();
  }

  link(kind, address, words, title = "") {
    const link = make("a", {
      class: `get ${kind}`, download: true, title, onclick: (event) => this.start(link, event),
    });
    this.links.push({ link, address, words });
    return link;
  }

  /** Show a link as busy until the answer comes, which takes as long as the file's encoding. */
  start(link, event) {
    if (link.getAttribute("aria-busy")) {
      event.preventDefault();
      return;
    }
    this.show();
    const { href } = link;
    const ticket = `ticket-${Math.random().toString(36).slice(2)}`;
    link.href += `&ticket=${ticket}`;
    link.setAttribute("aria-busy", true);
    const last = Date.now() + LONGEST_MS; // the user may have cancelled it
    const look = setInterval(() => {
      // The answer to a download sets a cookie: scripts cannot see more of it.
      const status = Number(document.cookie.match(`${ticket}=(\\d+)`)?.[1] ?? 0);
      if (!status && Date.now() < last) return;
      clearInterval(look);
      document.cookie = `${ticket}=; path=/; max-age=0`;
      link.removeAttribute("aria-busy");
      if (status >= 400) this.explain(href);
    }, 200);
  }

  /** Show why a file cannot be downloaded. */
  async explain(href) {
    const answer = await fetch(href);
    if (!answer.ok) this.player.showError(new Error(await reason(answer)));
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
      link.replaceChildren(make("span", { class: "arrow" }), words(form));
    }
  }
}
