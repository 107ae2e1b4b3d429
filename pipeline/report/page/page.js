// The page's own script: theme, tables, figures, clips. What it shows is in islands of JSON; text becomes text nodes.
const read = (name) => JSON.parse(document.getElementById(`data-${name}`)?.textContent ?? "null");
const page = read("page");
const figures = read("figures");
const explorer = read("explorer");
const byId = (id) => document.getElementById(id);

/** An element with attributes and children; strings become text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "style") Object.assign(element.style, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

const options = (select, pairs, chosen) => {
  select.replaceChildren(...pairs.map(([value, text]) => make("option", { value, selected: String(value) === String(chosen) }, text)));
};
const percent = (share) => (100 * share).toFixed(1);
const points = (share) => {
  const text = (100 * share).toFixed(1);
  return text === "-0.0" || text === "0.0" ? "0.0" : share > 0 ? `+${text}` : `−${text.slice(1)}`;
};
const narrow = () => window.innerWidth < 600;

// Theme -------------------------------------------------------------------------------------------------------------
const THEMES = {
  light: { ink: "#18202b", quiet: "#4d5868", grid: "#e2e7ed", line: "#8d99a8", box: "#ffffff",
    scale: [[0, "#f4f7fa"], [0.35, "#a8cbe6"], [0.7, "#3d87be"], [1, "#08335e"]] },
  dark: { ink: "#e8ecf2", quiet: "#a4afbd", grid: "#2a323d", line: "#66717f", box: "#1a2029",
    scale: [[0, "#1a2029"], [0.35, "#234e75"], [0.7, "#4a9bd4"], [1, "#dbeeff"]] },
};
const system = window.matchMedia("(prefers-color-scheme: dark)");
let theme = system.matches ? "dark" : "light";
let printing = false;

function template() {
  const own = THEMES[printing ? "light" : theme];
  const axis = { gridcolor: own.grid, linecolor: own.line, zerolinecolor: own.line, tickcolor: own.line };
  return {
    layout: {
      font: { color: own.ink }, xaxis: axis, yaxis: axis, coloraxis: { colorscale: own.scale },
      hoverlabel: { bgcolor: own.box, bordercolor: own.line, font: { color: own.ink } },
    },
    data: { bar: [{ error_x: { color: own.ink } }] },
  };
}

function setTheme(name) {
  theme = name;
  document.documentElement.dataset.theme = name;
  document.documentElement.classList.toggle("dark", name === "dark");
  byId("theme").textContent = name === "dark" ? "Light theme" : "Dark theme";
  retheme();
}
const retheme = () => drawn().forEach((area) => Plotly.relayout(area, { template: template() }));
byId("theme").addEventListener("click", () => setTheme(theme === "dark" ? "light" : "dark"));
system.addEventListener("change", (event) => setTheme(event.matches ? "dark" : "light"));

// Tables ------------------------------------------------------------------------------------------------------------
const { default: DataTable } = window.avfuseTables;

function dress(table, more = {}) {
  const rows = more.data?.length ?? table.tBodies[0].rows.length;
  const pages = rows > 30;
  const texts = (table.dataset.texts ?? "").split(" ").filter(Boolean).map(Number);
  const made = new DataTable(table, {
    autoWidth: false, order: [], paging: pages, pageLength: 25, lengthChange: false, info: pages,
    layout: {
      topStart: { buttons: [{ extend: "copy", title: null }, { extend: "csv", filename: table.dataset.file }] },
      topEnd: "search", bottomStart: pages ? "info" : null, bottomEnd: pages ? "paging" : null,
    },
    columnDefs: [{ targets: texts, className: "text" }],
    language: { search: "Search" },
    ...more,
  });
  // The box that scrolls is within what DataTables made, and takes the part of the box around it.
  const outer = table.closest(".scroll");
  const inner = table.closest(".dt-layout-table");
  for (const name of ["tabindex", "role", "aria-label"]) {
    inner.setAttribute(name, outer.getAttribute(name));
    outer.removeAttribute(name);
  }
  return made;
}
document.querySelectorAll("table.data").forEach((table) => dress(table));

// Figures -----------------------------------------------------------------------------------------------------------
const drawn = () => [...document.querySelectorAll(".plot-area.js-plotly-plot")];
const areaOf = (id) => byId(`figure-${id}`);
const CONFIG = { displayModeBar: false, responsive: true, displaylogo: false };

for (const [id, figure] of Object.entries(figures)) {
  const area = areaOf(id);
  if (!area) continue;
  const small = narrow() ? { font: { ...figure.layout.font, size: 10 } } : {};
  area.style.height = `${figure.height}px`;
  Plotly.newPlot(area, figure.data, { ...figure.layout, ...small, template: template() }, CONFIG);
}

document.querySelectorAll(".plot").forEach((plot) => {
  const id = plot.dataset.figure;
  plot.querySelectorAll("[data-save]").forEach((button) =>
    button.addEventListener("click", () => {
      const area = areaOf(id);
      const { width, height } = area.getBoundingClientRect();
      Plotly.downloadImage(area, { format: button.dataset.save, filename: figures[id].title, width, height, scale: 3 });
    }));
  plot.querySelector(".numbers").addEventListener("toggle", (event) => event.target.open && showNumbers(id));
});

/** The table of a figure's numbers, made when it is asked for. */
function showNumbers(id) {
  const box = document.querySelector(`.plot[data-figure="${id}"] .numbers-box`);
  if (!box.closest("details").open) return;
  const { headings, rows } = numbersOf(id);
  const words = areaOf(id).getAttribute("aria-label");
  box.replaceChildren(make("table", {},
    make("caption", {}, words),
    make("thead", {}, make("tr", {}, ...headings.map((text) => make("th", { scope: "col" }, String(text))))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((value, at) =>
      make(at ? "td" : "th", at ? {} : { scope: "row" }, value == null ? "" : String(value))))))));
  Object.entries({ tabindex: 0, role: "region", "aria-label": words }).forEach(([name, value]) => box.setAttribute(name, value));
}

function numbersOf(id) {
  if (id === "gains") return { headings: ["class", "clips", "before %", "after %", "difference"], rows: gainRows().map((row) => row.slice(0, 5)) };
  if (!id.startsWith("confusion-")) return { headings: figures[id].headings, rows: figures[id].numbers };
  const chosen = figures[id].data[Number(byId("confusion-row").value)];
  const plain = (text) => text.replaceAll("&lt;", "<").replaceAll("&amp;", "&");
  return { headings: ["true \\ predicted, %", ...chosen.x.map(plain)], rows: chosen.y.map((name, at) => [plain(name), ...chosen.z[at]]) };
}

// Learning curves: which rows, and which clips, are drawn.
const curves = ["curves-score", "curves-loss"].filter((id) => figures[id] && areaOf(id));
if (curves.length) {
  const off = new Set();
  const known = new Set(curves.flatMap((id) => figures[id].data.map((trace) => trace.meta.row)));
  const switches = [...page.rows.filter((row) => known.has(row.name)).map((row) => [`row ${row.name}`, row.name, row.colour]),
    ["part validation", "validation", null], ["part train", "train loss", null]];
  for (const [key, text, colour] of switches) {
    const button = make("button", { type: "button", class: "switch", "aria-pressed": "true" },
      colour ? make("span", { class: "swatch", style: { background: colour } }) : null, text);
    button.addEventListener("click", () => {
      const on = off.delete(key) || !off.add(key);
      button.setAttribute("aria-pressed", String(on));
      for (const id of curves) {
        const visible = figures[id].data.map(({ meta }) => !off.has(`row ${meta.row}`) && !off.has(`part ${meta.part}`));
        Plotly.restyle(areaOf(id), { visible });
      }
    });
    byId("curve-switches").append(button);
  }
}

// Confusions: whose.
const confusionRow = byId("confusion-row");
if (confusionRow) {
  const best = page.gains ? page.gains.after : 0;
  options(confusionRow, page.rows.map((row, at) => [at, row.name]), best);
  const show = () => Object.keys(figures).filter((id) => id.startsWith("confusion-")).forEach((id) => {
    Plotly.restyle(areaOf(id), { visible: page.rows.map((_, at) => at === Number(confusionRow.value)) });
    showNumbers(id);
  });
  confusionRow.addEventListener("change", show);
  show();
}

// Gains: from which row to which.
const MOST_BARS = 20;
let gainTable = null;

function gainRows() {
  const [before, after] = ["before", "after"].map((name) => Number(byId(`gains-${name}`).value));
  const turned = before > after;
  const pair = page.gains.pairs[turned ? `${after}>${before}` : `${before}>${after}`];
  const target = byId("gains-target")?.value ?? page.targets[0].name;
  return page.gains.classes
    .map(([of, name, clips], at) => {
      const [was, now, fixed, broken] = pair ? pair[at] : [0, 0, 0, 0];
      const values = turned ? [now, was, broken, fixed] : [was, now, fixed, broken];
      return { of, row: [name, clips, percent(values[0]), percent(values[1]), points(values[1] - values[0]), values[2].toFixed(1), values[3].toFixed(1), values[1] - values[0]] };
    })
    .filter(({ of }) => of === target)
    .map(({ row }) => row)
    .sort((a, b) => b[7] - a[7]);
}

function showGains() {
  const [before, after] = ["before", "after"].map((name) => page.rows[Number(byId(`gains-${name}`).value)]);
  const rows = gainRows();
  const sum = (at) => rows.reduce((total, row) => total + Number(row[at]), 0);
  const drawnRows = rows.length > 2 * MOST_BARS ? [...rows.slice(0, MOST_BARS), ...rows.slice(-MOST_BARS)] : rows;
  const of = page.targets.find((each) => each.name === (byId("gains-target")?.value ?? each.name));
  const clips = of.several ? "" : `Of ${sum(1)} test clips ${sum(5).toFixed(1)} are fixed and ${sum(6).toFixed(1)} broken. `;
  byId("gains-words").textContent = before === after ? "Choose two different rows." :
    `From ${before.name} to ${after.name}: ${rows.filter((row) => row[7] > 0).length} of ${rows.length} classes gain, ` +
    `${rows.filter((row) => row[7] < 0).length} lose. ${clips}` +
    `Bars to the right, in the colour of ${after.name}, are classes that it predicts better; bars to the left are those of ${before.name}.` +
    (drawnRows.length < rows.length ? ` The ${MOST_BARS} largest gains and losses are drawn; the table has all.` : "");
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const area = areaOf("gains");
  const height = 24 * drawnRows.length + 90;
  area.style.height = `${height}px`;
  Plotly.react(area, [{
    type: "bar", orientation: "h", x: drawnRows.map((row) => 100 * row[7]), y: drawnRows.map((row) => escaped(row[0])),
    marker: { color: drawnRows.map((row) => (row[7] < 0 ? before.colour : after.colour)) },
    customdata: drawnRows.map((row) => row.slice(1, 4)),
    hovertemplate: "%{y}: %{x:+.1f} points<br>%{customdata[0]} clips, %{customdata[1]} % → %{customdata[2]} %<extra></extra>",
  }], { ...area.layout, height, template: template() }, CONFIG);
  const cells = rows.map((row) => row.slice(0, 7));
  if (gainTable) gainTable.clear().rows.add(cells).draw();
  else gainTable = dress(byId("table-gains"), { data: cells, columnDefs: [{ targets: 4, render: (text, kind) => (kind === "sort" ? Number(text.replace("−", "-")) : text), type: "num" }, { targets: 0, render: DataTable.render.text() }] });
  showNumbers("gains");
}

if (page.gains) {
  const pairs = page.gains.rows.map((at) => [at, page.rows[at].name]);
  for (const name of ["before", "after"]) {
    options(byId(`gains-${name}`), pairs, page.gains[name]);
    byId(`gains-${name}`).addEventListener("change", showGains);
  }
  if (byId("gains-target")) {
    options(byId("gains-target"), page.targets.map((each) => [each.name, each.name]));
    byId("gains-target").addEventListener("change", showGains);
  }
  showGains();
}

// Clips -------------------------------------------------------------------------------------------------------------
const STEP = 60;
const METHODS = { "grad-cam": "Grad-CAM", attention: "attention (rollout)" };
const state = { found: [], shown: STEP, open: null, method: "grad-cam" };

function disagrees(clip) {
  const right = clip.likely_right.filter(Boolean).length;
  const guesses = new Set(clip.top.map((targets) => targets.map((top) => top[0][0]).join("+")));
  return (right > 0 && right < clip.likely_right.length) || guesses.size > 1;
}

function filtered() {
  const [kind, row, verdict, text] = ["class", "row", "verdict", "text"].map((name) => byId(`filter-${name}`).value);
  const needle = text.trim().toLowerCase();
  const [target, number] = kind.split(":").map(Number);
  return explorer.clips.filter((clip) => {
    if (kind && !clip.truth[target].includes(number)) return false;
    if (byId("filter-disagree").checked && !disagrees(clip)) return false;
    if (byId("filter-media").checked && !explorer.media[clip.id]) return false;
    const right = row === "" ? clip.likely_right : [clip.likely_right[Number(row)]];
    if (verdict === "right" && !right.every(Boolean)) return false;
    if (verdict === "wrong" && !right.some((each) => !each)) return false;
    return !needle || `${clip.id} ${clip.label}`.toLowerCase().includes(needle);
  });
}

function item(clip) {
  const pips = page.rows.map((row, at) => make("span", { class: `pip ${clip.likely_right[at] ? "right" : "wrong"}`, title: row.name }, clip.likely_right[at] ? "✓" : "✗"));
  const right = page.rows.filter((_, at) => clip.likely_right[at]).map((row) => row.name);
  const button = make("button", { type: "button", class: "clip-item", tabindex: -1, "data-clip": clip.id, "aria-current": String(clip.id === state.open) },
    make("strong", {}, clip.id), make("span", { class: "quiet" }, clip.label),
    make("span", { class: "pips", "aria-hidden": "true" }, ...pips),
    make("span", { class: "hidden-text" }, right.length ? `right: ${right.join(", ")}` : "no row is right"));
  button.addEventListener("click", () => open(clip.id));
  return make("li", {}, button);
}

const items = () => [...byId("clip-list").querySelectorAll(".clip-item")];

function list() {
  byId("clip-list").replaceChildren(...state.found.slice(0, state.shown).map(item));
  const first = items().find((each) => each.dataset.clip === state.open) ?? items()[0];
  if (first) first.tabIndex = 0;
  byId("more-clips").hidden = state.found.length <= state.shown;
}

function filter() {
  state.found = filtered();
  state.shown = STEP;
  byId("clip-count").textContent = `${state.found.length} of ${explorer.clips.length} clips`;
  list();
}

function focusItem(at) {
  const all = items();
  const chosen = all[Math.max(0, Math.min(at, all.length - 1))];
  if (!chosen) return;
  all.forEach((each) => { each.tabIndex = each === chosen ? 0 : -1; });
  chosen.focus();
}

function open(id) {
  state.open = id;
  items().forEach((each) => each.setAttribute("aria-current", String(each.dataset.clip === id)));
  const article = byId("clip");
  const clip = explorer.clips.find((each) => each.id === id);
  article.replaceChildren(...detail(clip));
  article.hidden = false;
  article.focus({ preventScroll: true });
  article.scrollIntoView({ block: "nearest" });
}

function close() {
  const at = items().findIndex((each) => each.dataset.clip === state.open);
  state.open = null;
  byId("clip").hidden = true;
  byId("clip").replaceChildren();
  items().forEach((each) => each.setAttribute("aria-current", "false"));
  focusItem(Math.max(at, 0));
}

function step(by) {
  const at = state.found.findIndex((clip) => clip.id === state.open) + by;
  if (at < 0 || at >= state.found.length) return;
  if (at >= state.shown) { state.shown = at + STEP; list(); }
  open(state.found[at].id);
}

function detail(clip) {
  const media = explorer.media[clip.id];
  const button = (text, label, action) => {
    const made = make("button", { type: "button", "aria-label": label }, text);
    made.addEventListener("click", action);
    return made;
  };
  const parts = [
    make("header", {},
      make("div", {}, make("h3", { id: "clip-title" }, clip.id), make("p", {}, make("span", { class: "quiet" }, "true: "), make("strong", {}, clip.label))),
      make("nav", { "aria-label": "Clip" }, button("←", "Previous clip", () => step(-1)), button("→", "Next clip", () => step(1)), button("Close", "Close the clip", close))),
  ];
  if (!media) parts.push(make("p", { class: "quiet" }, "The page has no pictures and sound of this clip, to stay small."));
  else parts.push(...pictures(clip, media));
  parts.push(make("section", {}, make("h4", {}, "Predictions"), make("div", { class: "cards" }, ...page.rows.map((row, at) => guesses(clip, row, at)))));
  if (media?.maps) parts.push(lookedAt(media));
  return parts;
}

function pictures(clip, media) {
  const parts = media.notes.map((note) => make("p", { class: "quiet note" }, note));
  if (media.frames.length) {
    parts.push(make("div", { class: "frames" }, ...media.frames.map(([source, seconds], at) =>
      make("figure", {}, make("img", { src: source, alt: `Frame ${at + 1} of ${media.frames.length}` }), make("figcaption", {}, `${seconds.toFixed(2)} s`)))));
  }
  if (media.sound) parts.push(make("section", {}, make("h4", {}, "Sound"), make("audio", { controls: true, preload: "metadata", src: media.sound, "aria-label": `Sound of ${clip.id}` })));
  const images = Object.entries(media.images);
  if (images.length) {
    parts.push(make("section", {}, make("h4", {}, "Audio images"), make("div", { class: "images" }, ...images.map(([name, source]) =>
      make("figure", {}, make("img", { src: source, alt: `${name} of the clip's sound` }), make("figcaption", {}, name.replaceAll("_", " ")))))));
  }
  return parts;
}

function guesses(clip, row, at) {
  const right = clip.likely_right[at];
  const seeds = `${Math.round(clip.right[at] * row.seeds)} of ${row.seeds} seed${row.seeds > 1 ? "s" : ""} right`;
  const parts = clip.top[at].flatMap((top, target) => {
    const { name, classes } = page.targets[target];
    const lines = top.map(([number, thousandths]) => {
      const isTrue = clip.truth[target].includes(number);
      return make("li", { class: `guess${isTrue ? " true" : ""}` }, make("span", { class: "fill", style: { width: `${thousandths / 10}%` } }),
        make("span", { class: "name", title: classes[number] }, classes[number], isTrue ? make("span", { class: "hidden-text" }, " (true)") : null),
        make("span", { class: "share" }, `${(thousandths / 10).toFixed(1)} %`));
    });
    const list = make("ol", { class: "guesses", "aria-label": `Likeliest classes by ${row.name}` }, ...lines);
    return page.targets.length > 1 ? [make("p", { class: "quiet" }, name), list] : [list];
  });
  return make("div", { class: "card", style: { borderTopColor: row.colour } },
    make("div", { class: "card-head" }, make("h5", {}, row.name), make("p", { class: `verdict ${right ? "right" : "wrong"}` }, `${right ? "✓ right" : "✗ wrong"}, ${seeds}`)), ...parts);
}

function lookedAt(media) {
  const select = make("select", {});
  options(select, Object.entries(METHODS), state.method);
  const cards = make("div", { class: "cards" });
  const show = () => {
    state.method = select.value;
    cards.replaceChildren(...page.rows.map((row, at) => {
      const { note, class: guess, panels = [] } = media.maps[at][state.method];
      return make("div", { class: "card", style: { borderTopColor: row.colour } }, make("h5", {}, row.name),
        note ? make("p", { class: "quiet" }, note) : make("p", { class: "quiet" }, `for “${guess}”`), ...panels.map((panel) => drawPanel(panel, media)));
    }));
  };
  select.addEventListener("change", show);
  show();
  return make("section", {}, make("h4", {}, "Heatmaps"),
    make("p", { class: "quiet" }, "For the likeliest class, mean over seeds; 1 is the mean over cells."),
    make("div", { class: "controls" }, make("label", {}, "Method ", select)), cards);
}

function drawPanel(panel, media) {
  const title = make("p", {}, make("span", { class: "name" }, panel.title), panel.words ? ` · ${panel.words}` : "");
  if (panel.kind === "note") return make("div", { class: "panel" }, title);
  if (panel.kind === "course") {
    const most = Math.max(...panel.values, 1e-9);
    const at = panel.values.indexOf(most) + 1;
    return make("div", { class: "panel" }, title, make("div", { class: "course", role: "img", "aria-label": `Relevance of ${panel.values.length} ${panel.over}s in order, the most at ${panel.over} ${at}` },
      ...panel.values.map((value, number) => make("i", { style: { height: `${(100 * value) / most}%` }, title: `${panel.over} ${number + 1}: ${value}` }))));
  }
  if (panel.kind === "shares") {
    const most = Math.max(...panel.values, 1e-9);
    return make("div", { class: "panel" }, title, make("ul", { class: "guesses", "aria-label": "Relevance of each feature" }, ...panel.labels.map((label, at) =>
      make("li", { class: "guess" }, make("span", { class: "fill", style: { width: `${(100 * panel.values[at]) / most}%` } }), make("span", { class: "name", title: label }, label), make("span", { class: "share" }, panel.values[at].toFixed(2))))));
  }
  const single = panel.pictures.length === 1;
  return make("div", { class: "panel" }, title, make("div", { class: single ? "maps one" : "maps" }, ...panel.pictures.map(([picture, heat], at) =>
    make("div", { class: "map" }, make("img", { src: media.pictures[picture], alt: single ? "Picture of the sound: time to the right, low frequencies below" : `Frame ${at + 1}` }), make("img", { src: heat, alt: "" })))));
}

if (explorer) {
  byId("explorer").hidden = false;
  byId("clip-marks").textContent = page.rows.map((row) => row.name).join(", ");
  const classes = page.targets.flatMap((target, of) => target.classes.map((name, at) => [`${of}:${at}`, page.targets.length > 1 ? `${target.name}: ${name}` : name]));
  options(byId("filter-class"), [["", "all"], ...classes]);
  options(byId("filter-row"), [["", "all"], ...page.rows.map((row, at) => [at, row.name])]);
  byId("filters").addEventListener("input", filter);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("more-clips").addEventListener("click", () => { const at = state.shown; state.shown += 4 * STEP; list(); focusItem(at); });
  byId("clip-list").addEventListener("keydown", (event) => {
    const at = items().indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: Infinity, PageDown: at + 10, PageUp: at - 10 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    focusItem(to);
  });
  byId("clip").addEventListener("keydown", (event) => {
    if (event.key === "Escape") { event.preventDefault(); close(); }
    if (event.target.matches("select, audio")) return;
    if (event.key === "ArrowRight") { event.preventDefault(); step(1); }
    if (event.key === "ArrowLeft") { event.preventDefault(); step(-1); }
  });
  filter();
}

setTheme(theme);

// Paper: light, meanings and reasons open, figures as wide as the paper.
const opened = [];
window.addEventListener("beforeprint", () => {
  printing = true;
  document.querySelectorAll("details.meanings:not([open]), details:has(.left-out):not([open])").forEach((each) => { each.open = true; opened.push(each); });
  drawn().forEach((area) => Plotly.relayout(area, { template: template(), width: area.closest(".pair") ? 330 : 680 }));
});
window.addEventListener("afterprint", () => {
  printing = false;
  opened.splice(0).forEach((each) => { each.open = false; });
  drawn().forEach((area) => Plotly.relayout(area, { template: template(), width: null, autosize: true }));
});
document.documentElement.dataset.ready = "true";
