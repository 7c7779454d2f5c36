// Blind test: compare the same stem of two models without knowing which is which.

import { make } from "./dom.js";
import { csv, matchedGains, signTest, verdict } from "./sign_test.js";

const NONE = "none"; // the vote for no difference

/** Random bit. */
function coin() {
  return crypto.getRandomValues(new Uint8Array(1))[0] & 1;
}

export class BlindTest {
  constructor(player) {
    this.player = player;
    this.models = player.song.models;
    const stems = (model) =>
      player.song.tracks.filter((track) => track.model === model).map((track) => track.name);
    const common = stems(this.models[0]).filter((name) => stems(this.models[1]).includes(name));
    this.element = make("details", { class: "blind", ontoggle: () => this.toggled() });
    if (!common.length) {
      this.element.append(
        make("summary", {}, "Blind test"),
        make("p", {}, "The two models have no stem in common."),
      );
      return;
    }
    this.build(common);
    this.restart();
  }

  get isOpen() {
    return Boolean(this.stem) && this.element.open;
  }

  build(stems) {
    const button = (kind, words, onclick) =>
      make("button", { type: "button", class: kind, onclick }, words);
    this.stem = make("select", { "aria-label": "Stem", onchange: () => this.trial() },
      ...stems.map((name) => make("option", {}, name)));
    this.listen = ["A", "B"].map((side, number) =>
      button("side", `Listen to ${side}`, () => this.listenTo(number)));
    const votes = [["A is better", 0], ["B is better", 1], ["No difference", null]].map(
      ([words, side]) => button("vote", words, () => this.vote(side)));
    this.tally = make("p", { class: "tally", role: "status" });
    this.revealed = make("p", { class: "revealed", role: "status" });
    this.exports = make("div", { class: "line exports", hidden: true },
      ...["csv", "json"].map((kind) =>
        button(kind, `↓ Votes as ${kind.toUpperCase()}`, () => this.save(kind))));
    this.element.append(
      make("summary", {}, "Blind test"),
      make("p", {}, "A and B are the same stem of the two models at the same loudness, assigned at "
        + "random for each vote. Listen to both as often as you like, anywhere in the song, then "
        + "vote."),
      make("div", { class: "line" }, this.stem,
        button("again", "Replay from the same position", () => this.again())),
      make("div", { class: "line" }, ...this.listen),
      make("div", { class: "line" }, ...votes),
      this.tally,
      make("div", { class: "line" },
        button("reveal", "Show results", () => this.reveal()),
        button("reset", "Reset votes", () => this.restart())),
      this.revealed,
      this.exports,
    );
  }

  toggled() {
    if (!this.stem) return;
    // The mixer would show which model is playing.
    this.player.classList.toggle("testing", this.element.open);
    if (this.element.open) this.trial();
    else this.player.audition(null);
  }

  restart() {
    this.votes = [];
    this.alias = coin(); // the model that the tally lists first
    this.hide();
    this.trial();
  }

  trial() {
    this.swapped = coin(); // A is the second model
    this.start = this.player.transport?.currentTime ?? 0;
    this.playing = null;
    this.show();
    if (this.element.open) this.listenTo(0, false);
  }

  /** Number of each model's track of the chosen stem. */
  get tracks() {
    return this.models.map((model) => this.player.song.tracks.findIndex(
      (track) => track.model === model && track.name === this.stem.value));
  }

  async listenTo(side, play = true) {
    this.playing = side;
    const model = side ^ this.swapped;
    const { tracks } = this;
    const gains = matchedGains(tracks.map((track) => this.player.song.tracks[track].power));
    this.player.audition(tracks[model], gains[model]);
    this.show();
    if (play) await this.player.play();
  }

  async again() {
    await this.player.seek(this.start);
    await this.player.play();
  }

  vote(side) {
    this.votes.push({
      number: this.votes.length + 1,
      time: new Date().toISOString(),
      song: this.player.song.title,
      stem: this.stem.value,
      seconds: Number(this.player.currentTime.toFixed(2)),
      a: this.models[this.swapped],
      b: this.models[1 - this.swapped],
      preferred: side === null ? NONE : this.models[side ^ this.swapped],
    });
    this.hide();
    this.trial();
  }

  /** Votes for each model. */
  get counts() {
    return this.models.map((model) => this.countOf(model));
  }

  countOf(preferred) {
    return this.votes.filter((vote) => vote.preferred === preferred).length;
  }

  hide() {
    this.revealed.textContent = "";
    this.exports.hidden = true;
  }

  reveal() {
    const { counts } = this;
    const votes = this.models.map((model, number) => `${model}: ${counts[number]}`);
    this.revealed.textContent = `${votes.join(", ")}, no difference: ${this.countOf(NONE)}. `
      + verdict(this.models, counts);
    this.exports.hidden = !this.votes.length;
    this.trial(); // the current assignment is known now
  }

  /** Download all votes. */
  save(kind) {
    const { counts, models, votes } = this;
    const result = { models, counts, p: signTest(...counts), verdict: verdict(models, counts), votes };
    const text = kind === "csv" ? csv(votes) : `${JSON.stringify(result, null, 2)}\n`;
    const type = kind === "csv" ? "text/csv" : "application/json";
    const href = URL.createObjectURL(new Blob([text], { type }));
    make("a", { href, download: `${this.player.song.title} - blind test.${kind}` }).click();
    setTimeout(() => URL.revokeObjectURL(href), 60_000);
  }

  show() {
    this.listen.forEach((button, side) => {
      button.setAttribute("aria-pressed", this.playing === side);
    });
    const { counts } = this;
    const [one, other] = [counts[this.alias], counts[1 - this.alias]];
    this.tally.textContent = this.votes.length
      ? `Votes: ${one} for one model, ${other} for the other, ${this.countOf(NONE)} no difference.`
      : "No votes yet.";
  }
}
