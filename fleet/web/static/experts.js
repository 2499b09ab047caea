// The experts and their state, kept up to date in place. Knows nothing of jobs and of where a state comes from.

import { digest, make, say, sayOrHide } from "./dom.js";

const FILTER_FROM = 10; // experts; fewer are seen at a glance

/** What a state means for the version that is wanted. */
function standing(expert) {
  if (expert.state === "quarantined") return ["bad", "quarantined"];
  if (expert.reason) return ["warn", `version ${expert.wanted} refused`];
  if (expert.version !== null && expert.version !== expert.wanted) {
    return ["busy", `checking version ${expert.wanted}`];
  }
  return expert.state === "ready" ? ["good", "ready"] : ["busy", "waiting"];
}

/** One expert's place in the list; `show` says how it is now. */
class Row {
  constructor(task) {
    this.element = make("li", { "data-task": task });
    this.badge = make("span", { class: "badge" });
    this.about = make("p", { class: "faint about" });
    this.digest = make("span");
    this.reason = make("p", { class: "notice warn" });
    this.challenger = make("p", { class: "faint challenger" });
    this.element.append(
      make("p", { class: "row" }, make("strong", {}, task), this.badge),
      make("p", { class: "faint detail" }, this.about, this.digest),
      this.reason,
      this.challenger,
    );
  }

  show(expert, replicas, queued) {
    const [mood, word] = standing(expert);
    say(this.badge, word);
    this.badge.className = `badge ${mood}`;
    const version = expert.version === null ? "no version yet" : `version ${expert.version}`;
    const ready = replicas === 1 && expert.ready_on === 1 ? null : `ready on ${expert.ready_on} of ${replicas}`;
    const waiting = queued ? `${queued} queued` : null;
    say(this.about, [version, ready, waiting].filter(Boolean).join(" · "));
    if (this.digest.dataset.full !== expert.digest) {
      this.digest.dataset.full = expert.digest;
      this.digest.replaceChildren(...(expert.digest ? [digest(expert.digest, `digest of ${expert.task}`)] : []));
    }
    sayOrHide(this.reason, expert.reason);
    this.reason.className = `notice ${mood === "bad" ? "bad" : "warn"}`;
    sayOrHide(this.challenger, shadowed(expert.challenger));
    const changed = this.version !== undefined && this.version !== expert.version;
    this.version = expert.version;
    if (changed) this.flash();
    return changed;
  }

  flash() {
    this.element.classList.remove("changed");
    void this.element.offsetWidth; // or the animation would not begin anew
    this.element.classList.add("changed");
  }
}

/** What is known of the version that is asked after the champion, and whose answers go nowhere. */
function shadowed(challenger) {
  if (!challenger) return "";
  const { version, state, reason, champion, asked, agreement, failed, challenger_ms, champion_ms } = challenger;
  const parts = [`challenger: version ${version}`];
  if (reason || !asked) parts.push(reason ? `${state}: ${reason}` : state);
  if (asked) parts.push(`as version ${champion} on ${Math.round(100 * agreement)}% of ${asked} jobs`);
  if (failed) parts.push(`no answer to ${failed}`);
  if (challenger_ms !== null) parts.push(`${challenger_ms.toFixed(0)} ms, the champion ${champion_ms.toFixed(0)}`);
  return parts.join(" · ");
}

/** The list in `list`, with its summary, its filter, and its news for those who listen. */
export class Experts {
  #rows = new Map();

  constructor({ list, summary, filter, news }) {
    Object.assign(this, { list, summary, filter, news });
    this.filter.addEventListener("input", () => this.#sift());
  }

  show({ experts, replicas, queued, hidden }) {
    const told = [];
    for (const expert of experts) {
      const known = this.#rows.has(expert.task);
      if (!known) this.#add(expert.task);
      const row = this.#rows.get(expert.task);
      if (row.show(expert, replicas, queued[expert.task] ?? 0) && expert.version !== null) {
        told.push(`${expert.task} is answered by version ${expert.version} now`);
      }
    }
    const here = new Set(experts.map((expert) => expert.task));
    for (const [task, row] of this.#rows) {
      if (here.has(task)) continue;
      row.element.remove();
      this.#rows.delete(task);
      told.push(`${task} is retired`);
    }
    if (told.length) say(this.news, told.join(". "));
    say(this.summary, counted(experts) + (hidden ? "; others are not shown to this key" : ""));
    this.filter.hidden = experts.length < FILTER_FROM;
    this.#sift();
  }

  #add(task) {
    const row = new Row(task);
    const next = [...this.#rows.keys()].filter((other) => other > task).sort()[0];
    this.list.insertBefore(row.element, next === undefined ? null : this.#rows.get(next).element);
    this.#rows.set(task, row);
  }

  #sift() {
    const wanted = this.filter.hidden ? "" : this.filter.querySelector("input").value.trim().toLowerCase();
    for (const { element } of this.#rows.values()) {
      element.hidden = !element.textContent.toLowerCase().includes(wanted);
    }
  }
}

function counted(experts) {
  if (!experts.length) return "No task has a champion: train some (fleet train-all), or promote one.";
  const counts = new Map();
  for (const expert of experts) {
    const [, word] = standing(expert);
    const kind = word.replace(/ version \d+/, "");
    counts.set(kind, (counts.get(kind) ?? 0) + 1);
  }
  return [...counts].map(([word, number]) => `${number} ${word}`).join(", ");
}
