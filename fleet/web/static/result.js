// A result as people read it: decision, answers, receipts, or what went wrong and what to do about it.

import { digest, make, meter } from "./dom.js";

const ADVICE = {
  "bad-job": "Change the job and send it again.",
  "unknown-task": "Choose an expert from the list.",
  "no-router": "Choose an expert yourself until there is a router.",
  quarantined: "The list of experts says why. It is tried again by itself; another version can be promoted.",
  overloaded: "More jobs wait than may. Send it again a little later.",
  deadline: "Send it again when less is waiting, or make it shorter.",
  failed: "Nothing is wrong with the job: send it again.",
  lost: "Send it again: a job changes nothing, so it may be answered twice.",
  unreachable: "See whether the service runs; this page goes on by itself when it is back.",
  forbidden: "Use another key, or choose another expert.",
  401: "Enter an API key.",
  413: "Send a shorter text.",
  429: "Too many requests for now. Send it again a little later.",
};
const STAGES = {
  wait: "until it was read",
  trunk: "the layers that all experts share",
  route: "the router",
  queue: "until there was room",
  load: "fetching and checking the expert",
  expert: "the expert's layers",
};
const WORDS = { route: "routed", clarify: "unsure", compound: "several tasks", abstain: "no expert" };

/** What one sentence can say of a result, for those who listen. */
export function summary(result) {
  if (result.error) return `No answer: ${result.error}`;
  if (!result.answers.length) return result.decision.reason;
  return result.answers.map((each) => `${each.task} says: ${each.text}`).join(". ");
}

/** The whole of a result. `ask(task)` sends its job to that task, or to each of several. */
export function resultParts(result, ask, again) {
  const failed = Object.entries(result.failed ?? {}).filter(([, reason]) => reason !== result.error);
  return [
    result.decision && decisionPart(result.decision, ask, result.answers.length > 0),
    ...result.answers.map(answerPart),
    result.error && errorPart({ ...result, message: result.error, retryAfter: result.retry_after }, again),
    ...failed.map(([task, reason]) => make("p", { class: "notice warn" }, `${task} has not answered: ${reason}`)),
  ].filter(Boolean);
}

/** Why there is no answer, and what to do. */
export function errorPart({ code, status, message, retryAfter }, again) {
  const button = make("button", { type: "button", class: "quiet", onclick: again }, "Send again");
  if (retryAfter) countDown(button, retryAfter);
  const advice = ADVICE[code] ?? ADVICE[status] ?? "";
  return make(
    "div",
    { class: "notice bad" },
    make("p", {}, make("strong", {}, code), " ", message),
    make("p", { class: "row" }, make("span", {}, advice), button),
  );
}

function countDown(button, seconds) {
  const until = Date.now() + 1000 * seconds;
  const tick = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    button.disabled = left > 0;
    button.textContent = left > 0 ? `Send again in ${left} s` : "Send again";
    if (left > 0) setTimeout(tick, 250);
  };
  tick();
}

function decisionPart(decision, ask, answered) {
  const named = decision.kind === "route" && decision.fit === null;
  const parts = [
    make(
      "p",
      { class: "decision" },
      make("span", { class: `badge ${decision.kind}` }, named ? "named" : WORDS[decision.kind]),
      " ",
      decision.task && make("strong", {}, decision.task),
      " ",
      make("span", { class: "faint reason" }, decision.reason),
    ),
  ];
  if (decision.scores.length && !named) parts.push(scores(decision.scores));
  if (decision.kind === "clarify") {
    const buttons = decision.tasks.map((task) =>
      make("button", { type: "button", onclick: () => ask(task) }, `Ask ${task}`),
    );
    parts.push(make("p", { class: "row", role: "group", "aria-label": "Which expert is meant?" }, buttons));
  }
  if (decision.kind === "compound" && !answered) {
    const all = `Ask ${decision.tasks.join(" and ")}`;
    const button = make("button", { type: "button", onclick: () => ask(decision.tasks) }, all);
    parts.push(make("p", { class: "row" }, make("span", {}, "Nothing was run."), button));
  }
  return make("div", { class: "decision-part" }, parts);
}

function scores(pairs) {
  const rows = pairs.map(([task, probability]) =>
    make("li", {}, make("span", { class: "name" }, task), meter(probability, `probability of ${task}`)),
  );
  return make("ul", { class: "scores", "aria-label": "Candidates" }, rows);
}

function answerPart(answer) {
  return make(
    "section",
    { class: "answer", "aria-label": `Answer of ${answer.task}` },
    valuePart(answer),
    answer.truncated && make("p", { class: "notice warn" }, "cut off: the answer was as long as it may be"),
    make("p", { class: "confidence" }, make("span", {}, "confidence"), meter(answer.confidence, "confidence")),
    receiptPart(answer.receipt),
  );
}

function valuePart({ value, text }) {
  if (value !== null && typeof value === "object") return record(value);
  const short = text.length <= 64 && !text.includes("\n");
  return make("p", { class: short ? "value label" : "value text" }, text || "(an empty text)");
}

function record(value) {
  const pairs = Object.entries(value);
  if (!pairs.length) return make("span", { class: "faint" }, "nothing");
  if (Array.isArray(value)) return make("ol", {}, value.map((each) => make("li", {}, cell(each))));
  const rows = pairs.map(([name, each]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, cell(each))),
  );
  return make("table", { class: "record" }, make("tbody", {}, rows));
}

function cell(value) {
  if (value === null) return make("span", { class: "faint" }, "none");
  if (value === "") return make("span", { class: "faint" }, "(empty)");
  return typeof value === "object" ? record(value) : String(value);
}

function receiptPart(receipt) {
  const pairs = [
    ["expert", `${receipt.task} version ${receipt.version}`],
    ["digest", digest(receipt.digest, "digest")],
    ["base", digest(receipt.base_fingerprint, "base")],
    ["decided by", receipt.router_version === null ? "the job itself" : `router ${receipt.router_version}`],
    ["tokens", `${receipt.input_tokens} in, ${receipt.output_tokens} out`],
    ["weights", receipt.weights],
  ];
  return make(
    "div",
    { class: "receipt" },
    make("dl", {}, pairs.map(([name, value]) => make("div", {}, make("dt", {}, name), " ", make("dd", {}, value)))),
    stages(receipt.milliseconds),
  );
}

function stages(milliseconds) {
  const spent = Object.entries(milliseconds);
  const total = spent.reduce((sum, [, each]) => sum + each, 0);
  const bar = make("div", { class: "stages", "aria-hidden": "true" });
  for (const [stage, each] of spent) {
    const part = make("span", { class: `stage ${stage}`, title: `${stage}: ${each} ms` });
    part.style.flexGrow = each / (total || 1);
    bar.append(part);
  }
  const legend = spent.map(([stage, each]) =>
    make("li", { title: STAGES[stage] }, make("i", { class: `stage ${stage}` }), `${stage} ${milli(each)}`),
  );
  return make("div", {}, bar, make("ul", { class: "legend" }, make("li", {}, `${milli(total)} ms:`), legend));
}

const milli = (value) => (value < 10 ? value.toFixed(1) : value.toFixed(0));
