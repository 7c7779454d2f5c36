// Links to the files of a song, in the chosen format.

import { make, save } from "./dom.js";
import { reason } from "./transport.js";

const FORMATS = {
  wav: "WAV, 32-bit float",
  flac: "FLAC, 24 bits",
  mp3: "MP3, 256 kbit/s",
};

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
      class: `get ${kind}`, download: true, title,
      onclick: (event) => {
        event.preventDefault();
        this.fetch(link, kind === "mix" && `${this.player.song.title} - my mix.${this.format.value}`);
      },
    });
    this.links.push({ link, address, words });
    return link;
  }

  /** Download a file; the link is busy while the server encodes it. */
  async fetch(link, mix) {
    const { href } = link;
    if (link.getAttribute("aria-busy")) return;
    link.setAttribute("aria-busy", true);
    try {
      const answer = await fetch(href);
      if (!answer.ok) throw new Error(await reason(answer));
      if (mix) {
        save(await answer.blob(), mix); // the server does not keep it
      } else {
        await answer.body.cancel(); // it is there: the browser shows how its download proceeds
        make("a", { href, download: true }).click();
      }
    } catch (error) {
      this.player.showError(error);
    } finally {
      link.removeAttribute("aria-busy");
    }
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
