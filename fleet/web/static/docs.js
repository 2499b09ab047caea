// What the interface's OpenAPI description says, as a page. Knows nothing of what the routes are about.

import { make, say, sayOrHide } from "./dom.js";
import { description } from "./service.js";

const LIMITS = {
  minimum: "at least",
  maximum: "at most",
  exclusiveMinimum: "above",
  exclusiveMaximum: "below",
  minLength: "characters, at least",
  maxLength: "characters, at most",
  minItems: "entries, at least",
  maxItems: "entries, at most",
  minProperties: "fields, at least",
  maxProperties: "fields, at most",
  default: "if not given",
};

/** What a value may be, with links to the shapes that have names. */
function type(schema) {
  if (schema === undefined) return ["anything"];
  if (schema.$ref) {
    const name = schema.$ref.split("/").pop();
    return [make("a", { href: `#${name}` }, name)];
  }
  const choices = schema.anyOf ?? schema.oneOf;
  if (choices) return choices.flatMap((each, number) => (number ? [" or ", ...type(each)] : type(each)));
  if ("const" in schema) return [JSON.stringify(schema.const)];
  if (schema.enum) return [schema.enum.map((each) => JSON.stringify(each)).join(" or ")];
  if (schema.type === "array") return ["list of ", ...type(schema.items)];
  if (schema.type === "object" && schema.additionalProperties) {
    return ["object of ", ...type(schema.additionalProperties === true ? undefined : schema.additionalProperties)];
  }
  return [schema.type ?? "anything"];
}

function limits(schema) {
  const all = [schema, ...(schema.anyOf ?? [])].flatMap((each) => Object.entries(each));
  return all
    .filter(([name, value]) => name in LIMITS && value !== null)
    .map(([name, value]) => `${LIMITS[name]} ${JSON.stringify(value)}`)
    .join("; ");
}

function fields(rows) {
  if (!rows.length) return null;
  const shown = rows.map(({ name, schema, needed, about }) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, make("code", {}, name), needed ? " (needed)" : ""),
      make("td", {}, type(schema)),
      make("td", {}, [about, limits(schema)].filter(Boolean).join(" · ")),
    ),
  );
  return make("table", { class: "record" }, make("tbody", {}, shown));
}

function operation(path, method, { description: about, parameters = [], requestBody, responses }) {
  const given = parameters.map((each) => ({
    name: `${each.name} (${each.in})`,
    schema: each.schema,
    needed: each.required,
    about: each.description,
  }));
  const bodies = Object.entries(requestBody?.content ?? {});
  const answers = Object.entries(responses).map(([status, each]) =>
    make("li", {}, make("code", {}, status), ` ${each.description} `, body(each.content)),
  );
  return make(
    "article",
    { class: "result" },
    make("h3", {}, make("span", { class: "badge" }, method.toUpperCase()), " ", make("code", {}, path)),
    make("p", { class: "description" }, about ?? ""),
    fields(given),
    bodies.length ? make("p", {}, "takes ", body(requestBody.content)) : null,
    make("ul", { class: "answers" }, answers),
  );
}

function body(content = {}) {
  return make(
    "span",
    { class: "faint" },
    Object.entries(content).flatMap(([media, { schema }]) => [`${media}: `, ...type(schema)]),
  );
}

function shape(name, schema) {
  const needed = new Set(schema.required);
  const rows = Object.entries(schema.properties ?? {}).map(([field, each]) => ({
    name: field,
    schema: each,
    needed: needed.has(field),
    about: each.description,
  }));
  return make(
    "article",
    { class: "result", id: name },
    make("h3", {}, name),
    make("p", { class: "description" }, schema.description ?? ""),
    fields(rows) ?? make("p", {}, type(schema)),
  );
}

try {
  const { info, paths, components = {} } = await description();
  say(document.getElementById("about"), `${info.summary ?? ""} · version ${info.version}`);
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, each]) => operation(path, method, each)),
  );
  const shapes = Object.entries(components.schemas ?? {}).map(([name, schema]) => shape(name, schema));
  document.getElementById("docs").append(
    make("section", {}, make("h2", {}, "Routes"), operations),
    make("section", {}, make("h2", {}, "Shapes"), shapes),
  );
  document.getElementById(location.hash.slice(1))?.scrollIntoView();
} catch (error) {
  sayOrHide(document.getElementById("fault"), `The description cannot be shown: ${error.message}`);
}
