// What a person fills in, as a job. Knows nothing of where it is sent.

import { make } from "./dom.js";

const TEXT = [{ name: "text", label: "Text" }];

/** The form; `onJob(job)` is called with what was filled in, `fieldsOf(task)` promises an expert's fields. */
export class JobForm {
  #experts = new Map();
  #fields = new Map(); // by digest, of those that were chosen
  #shown = "";

  constructor({ form, inputs, task, top, topChoice, send, stop }, onJob, fieldsOf) {
    Object.assign(this, { form, inputs, task, top, topChoice, send, stop, fieldsOf });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const job = this.#job();
      if (job) onJob(job);
    });
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
      event.preventDefault();
      if (!this.send.disabled) form.requestSubmit();
    });
    task.addEventListener("change", () => this.#suit());
    this.#suit();
  }

  /** Offer these experts; what was chosen or typed stays. */
  offer(experts) {
    this.#experts = new Map(experts.map((expert) => [expert.task, expert]));
    const chosen = this.task.value;
    const names = [...this.#experts.keys()].sort();
    // An expert that has retired stays chosen until a person chooses another.
    if (chosen && !this.#experts.has(chosen)) names.push(chosen);
    const offered = [...this.task.options].slice(1).map((option) => option.value);
    if (names.join() !== offered.join()) {
      this.task.replaceChildren(this.task.options[0], ...names.map((name) => make("option", { value: name }, name)));
      this.task.value = chosen;
    }
    this.#suit();
  }

  working(is) {
    this.send.disabled = is;
    this.stop.hidden = !is;
  }

  #suit() {
    this.topChoice.hidden = this.task.value !== "";
    const named = this.#named();
    const fields = named.length > 1 ? named.map((name) => ({ name, label: name })) : TEXT;
    const shape = fields.map((field) => field.name).join();
    if (shape === this.#shown) return;
    this.#shown = shape;
    const before = new Map([...this.inputs.querySelectorAll("textarea")].map((area) => [area.name, area.value]));
    this.inputs.replaceChildren(
      ...fields.map(({ name, label }, number) => {
        const rows = fields.length > 1 ? 2 : 4;
        const area = make("textarea", { name, rows, required: true, spellcheck: "false" });
        area.value = before.get(name) ?? (number === 0 ? [...before.values()].join("\n").trim() : "");
        return make("label", {}, label, area);
      }),
    );
  }

  /** The chosen expert's fields; none while they are not known. */
  #named() {
    const { task, digest } = this.#experts.get(this.task.value) ?? {};
    if (!task) return [];
    if (!this.#fields.has(digest)) {
      this.#fields.set(digest, []);
      this.fieldsOf(task).then(
        (fields) => {
          this.#fields.set(digest, fields);
          this.#suit();
        },
        () => this.#fields.delete(digest), // asked for again when the experts are next looked at
      );
    }
    return this.#fields.get(digest);
  }

  #job() {
    const areas = [...this.inputs.querySelectorAll("textarea")];
    const empty = areas.find((area) => !area.value.trim());
    if (empty) {
      empty.focus();
      return null;
    }
    const fields = Object.fromEntries(areas.map((area) => [area.name, area.value]));
    const content = this.#shown === "text" ? { text: fields.text } : { fields };
    if (this.task.value) return { ...content, task: this.task.value };
    const top = Number(this.top.value);
    return top > 1 ? { ...content, top } : content;
  }
}
