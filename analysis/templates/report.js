"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const TIERS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f"];
const MOST_LAYERS = 9999; // a record of others may say any number
const root = document.documentElement;
const make = (tag, attributes = {}, ...inside) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...inside);
  return element;
};
const commandOf = (plan) => DATA.runs.rows[plan.run].at(-1);
const escaped = (value) => make("i", { textContent: String(value) }).innerHTML;
const bytes = (n) => (n >= 1e9 ? (n / 1e9).toFixed(3) + " GB" : (n / 1e6).toFixed(3) + " MB");

// theme: the system's until the button is pressed
const remembered = () => { try { return localStorage.getItem("luq-theme"); } catch { return null; } };
const system = matchMedia("(prefers-color-scheme: dark)");
const setTheme = () => { root.dataset.theme = remembered() || (system.matches ? "dark" : "light"); };
setTheme();

// charts
function config() {
  const style = getComputedStyle(root);
  const [ink, soft, line] = ["--ink", "--soft", "--line"].map((name) => style.getPropertyValue(name).trim());
  const narrow = innerWidth < 640;
  return {
    background: null,
    font: "system-ui, sans-serif",
    view: { stroke: null },
    axis: { labelColor: soft, titleColor: ink, gridColor: line, domainColor: line, tickColor: line, titleFontWeight: 500, labelSeparation: 6, labelFontSize: narrow ? 11 : 12, titleFontSize: narrow ? 11 : 13, labelLimit: narrow ? 110 : 220 },
    legend: { labelColor: ink, titleColor: soft, labelFontSize: 12, orient: "bottom", columns: narrow ? 1 : 3, labelLimit: 320, symbolOpacity: 1 },
    text: { color: soft },
  };
}
// names beside the points, where there is room: a transform of Vega that Vega-Lite does not have
function withNames(vega, layer) {
  const style = getComputedStyle(root).getPropertyValue("--ink").trim();
  const names = vega.marks.map((mark) => mark.name);
  const points = `${layer}_marks`;
  vega.marks.push({
    type: "text", interactive: false, from: { data: points },
    encode: { enter: { text: { signal: "datum.datum.label || ''" }, fontSize: { value: 11 }, fill: { value: style } } },
    transform: [{
      type: "label", size: { signal: "[max(1, width), max(1, height)]" }, padding: 0, avoidBaseMark: true,
      avoidMarks: names.filter((name) => name !== points && !name.endsWith("pathgroup")),
      anchor: ["right", "left", "bottom", "top", "bottom-right", "top-right", "bottom-left", "top-left"], offset: [5, 5, 5, 5, 5, 5, 5, 5],
    }],
  });
  return vega;
}
function planTooltip(plan) {
  const rows = [
    ["retention", plan.retention === undefined ? "-" : plan.retention.toFixed(1) + " %"],
    ["score", plan.score.toFixed(1) + (plan.low === undefined ? "" : ` [${plan.low.toFixed(1)}, ${plan.high.toFixed(1)}]`)],
    ["checkpoint", bytes(plan.bytes)],
    ["stored, nominal bits", plan.bits.toFixed(3) + ", " + plan.nominal.toFixed(2)],
    ["seeds", plan.seeds],
    ["layers", escaped(plan.allocation)],
    ...(plan.beside ? [["beside them", escaped(plan.beside)]] : []),
    ["command", "<code>" + escaped(commandOf(plan) || "not recorded") + "</code>"],
  ];
  return "<b>" + escaped(plan.label) + "</b><table>" + rows.map(([k, v]) => `<tr><td>${k}</td><td>${v}</td></tr>`).join("") + "</table>";
}
function tooltip(datum) {
  if (datum.plan !== undefined && DATA.plans[datum.plan]) return planTooltip(DATA.plans[datum.plan]);
  const shown = Object.entries(datum).filter(([k]) => !["place", "hollow", "plan", "text"].includes(k));
  return "<table>" + shown.map(([k, v]) => {
    const value = typeof v === "number" ? Number(v.toPrecision(5)) : v;
    return `<tr><td>${escaped(k)}</td><td>${escaped(value)}</td></tr>`;
  }).join("") + "</table>";
}
async function draw(place) {
  const name = place.dataset.chart;
  const options = {
    renderer: "svg", mode: "vega-lite", config: config(),
    actions: { export: true, source: false, compiled: false, editor: false },
    downloadFileName: name, tooltip: { formatTooltip: tooltip, theme: "luq", sanitize: (x) => x },
  };
  try {
    const spec = structuredClone(DATA.charts[name]);
    if (innerWidth < 640 && spec.layer?.[0].mark.type === "rect") spec.layer.length = 1; // no room for a heat map's numbers
    const layer = spec.usermeta?.names;
    if (layer) options.patch = (vega) => withNames(vega, layer);
    const { view } = await vegaEmbed(place, spec, options);
    view.addEventListener("click", (event, item) => {
      if (item && item.datum && DATA.plans[item.datum.plan]) showPlan(place.closest("figure"), DATA.plans[item.datum.plan]);
    });
    place.dataset.drawn = "yes";
  } catch (error) {
    place.textContent = "This figure could not be drawn: " + error.message;
    place.dataset.drawn = "no";
    console.error(name, error);
  }
}
const drawAll = async () => {
  root.dataset.ready = "no";
  await Promise.all([...document.querySelectorAll(".chart")].map(draw));
  root.dataset.ready = "yes";
};

// what a click on a plan shows
function tiersOf(allocation) {
  const tiers = [];
  for (const part of allocation.split(" ")) {
    const [span, tier] = part.split(":"); // "4:trellis2,down_proj=trellis3": most linears in trellis2
    const [first, last] = span.split("-").map(Number);
    for (let i = first; i <= Math.min(last ?? first, MOST_LAYERS); i++) tiers[i] = tier;
  }
  return tiers;
}
function copyButton(text) {
  const button = make("button", { type: "button", textContent: "copy", title: text });
  button.className = "copy";
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      const area = make("textarea", { value: text });
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    button.textContent = "copied";
    setTimeout(() => { button.textContent = "copy"; }, 1500);
  });
  return button;
}
function showPlan(place, plan) {
  place.querySelector(".plan")?.remove();
  if (plan) place.append(planCard(plan));
}
function planCard(plan) {
  const layers = tiersOf(plan.allocation);
  const tiers = layers.map((tiers) => tiers.split(",")[0]);
  const most = layers.some((tiers) => tiers.includes(",")) ? ", or most of its linears" : "";
  const names = [...new Set(tiers)];
  const colour = (tier) => TIERS[names.indexOf(tier) % TIERS.length];
  const strip = make("div", { className: "strip" });
  strip.append(...tiers.map((tier, i) => make("span", { title: `layer ${i}: ${layers[i]}`, style: "background:" + colour(tier) })));
  const count = (tier) => tiers.filter((t) => t === tier).length;
  const legend = make("div", { className: "legend" });
  legend.append(...names.map((tier) => make("span", {}, make("i", { style: "background:" + colour(tier) }), `${tier}: ${count(tier)} of ${tiers.length} layers${most}`)));
  const scores = Object.entries(plan.scores || {}).map(([k, v]) => `${k} ${v.toFixed(1)}`).join(", ");
  const more = plan.seeds > 1 ? ` Mean of ${plan.seeds} seeds; layers and command of the first.` : "";
  const beside = plan.beside ? ` Beside the layers: ${plan.beside}.` : "";
  const command = make("div", { className: "command" }, make("code", { textContent: commandOf(plan) || "not recorded" }));
  if (commandOf(plan)) command.append(copyButton(commandOf(plan)));
  const told = `${bytes(plan.bytes)}, ${plan.bits.toFixed(3)} stored bits, score ${plan.score.toFixed(1)}. ${scores}.${beside}${more}`;
  return make("div", { className: "plan" }, make("b", { textContent: plan.label }), strip, legend, make("div", { className: "note", textContent: told }), command);
}

// the smallest plan within a loss, and any plan, by keyboard too
document.querySelectorAll(".chooser").forEach((place) => {
  const [loss, mixes, select, answer, shown] = ["input[type=number]", "input[type=checkbox]", "select", ".answer", ".shown"].map((s) => place.querySelector(s));
  const plans = Object.values(DATA.plans).filter((plan) => plan.chapter === place.dataset.chapter).sort((a, b) => a.bytes - b.bytes || b.score - a.score);
  const original = DATA.floatScores[place.dataset.chapter];
  select.append(...plans.map((plan, i) => make("option", { value: i, textContent: `${plan.label}, ${bytes(plan.bytes)}` })));
  const answerLoss = () => {
    const allowed = Number(loss.value);
    if (loss.value === "" || Number.isNaN(allowed)) return;
    const plan = plans.find((p) => !p.collapsed && p.score >= original - allowed && (p.mixed || !mixes.checked));
    const lost = plan && original - plan.score;
    const interval = plan?.low === undefined ? "" : ` [${plan.low.toFixed(1)}, ${plan.high.toFixed(1)}]`;
    answer.textContent = plan
      ? `${plan.label}: ${bytes(plan.bytes)}, score ${plan.score.toFixed(1)}${interval}, ${Math.abs(lost).toFixed(1)} points ${lost >= 0 ? "below" : "above"} 16-bit (${original.toFixed(1)}).`
      : `No ${mixes.checked ? "mix" : "plan"} here is within ${allowed} ${allowed === 1 ? "point" : "points"} of ${original.toFixed(1)}.`;
    select.value = "";
    showPlan(shown, plan);
  };
  loss.addEventListener("input", answerLoss);
  mixes.addEventListener("change", answerLoss);
  select.addEventListener("change", () => showPlan(shown, plans[select.value]));
  answerLoss();
});

// tables
function compareKeys(a, b) {
  const [x, y] = [Number(a), Number(b)];
  return a !== "" && b !== "" && !Number.isNaN(x) && !Number.isNaN(y) ? x - y : String(a).localeCompare(String(b), undefined, { numeric: true });
}
function mark(header, up) {
  header.parentNode.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
}
function sortable(header, sort) {
  header.tabIndex = 0;
  const act = () => {
    const up = header.getAttribute("aria-sort") !== "ascending";
    mark(header, up);
    sort(up);
  };
  header.addEventListener("click", act);
  header.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault(); // the space bar scrolls the page
    act();
  });
}
for (const table of document.querySelectorAll("table.sort")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((header, column) => sortable(header, (up) => {
    const rows = [...body.rows].map((row) => [row.cells[column].dataset.key, row]);
    rows.sort((a, b) => (up ? 1 : -1) * compareKeys(a[0], b[0]));
    body.append(...rows.map((r) => r[1]));
  }));
}
function runsTable(place) {
  const { columns, rows } = DATA.runs;
  const table = place.querySelector("table");
  const [input, all, count] = ["input", "button", ".count"].map((s) => place.querySelector(s));
  let shown = rows, limit = 100, order = null;
  const head = table.createTHead().insertRow();
  const word = (column) => (column.places === null ? "word" : "");
  columns.forEach((column, i) => {
    const header = make("th", { textContent: column.title.replaceAll("-", "\u2011"), className: word(column), scope: "col" });
    head.append(header);
    sortable(header, (up) => { order = [i, up]; fill(); });
  });
  head.append(make("th", { textContent: "command", className: "word" }));
  const body = table.createTBody();
  function fill() {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = rows.filter((row) => { const text = row.join(" ").toLowerCase(); return words.every((w) => text.includes(w)); });
    if (order) {
      const [i, up] = order;
      shown.sort((a, b) => (a[i] === null) - (b[i] === null) || (up ? 1 : -1) * compareKeys(a[i] ?? "", b[i] ?? ""));
    }
    body.replaceChildren(...shown.slice(0, limit).map((row) => {
      const line = make("tr");
      columns.forEach((column, i) => {
        const text = row[i] === null ? "-" : column.places === null ? row[i] || "-" : row[i].toFixed(column.places);
        line.append(make("td", { textContent: text, className: word(column) }));
      });
      line.append(make("td", { className: "word" }, row.at(-1) ? copyButton(row.at(-1)) : "-"));
      return line;
    }));
    count.textContent = `${shown.length} of ${rows.length} runs` + (shown.length > limit ? `, the first ${limit} shown` : "");
    all.hidden = shown.length <= limit;
  }
  const { alike } = DATA.runs;
  if (alike.length) document.querySelector(".alike").textContent = `The same in all runs: ${alike.join(", ")}. `;
  input.addEventListener("input", fill);
  all.addEventListener("click", () => { limit = Infinity; fill(); });
  fill();
}
document.querySelectorAll(".runs").forEach(runsTable);

// a table that is wider than the page says so, and scrolls by keyboard
function markWide(wide) {
  const scroll = wide.firstElementChild;
  const hidden = scroll.scrollWidth - scroll.clientWidth;
  wide.dataset.more = hidden - scroll.scrollLeft > 1 ? "yes" : "no";
  if (hidden > 1) scroll.tabIndex = 0;
  else scroll.removeAttribute("tabindex");
}
const sizes = new ResizeObserver((entries) => entries.forEach((entry) => markWide(entry.target.closest(".wide"))));
document.querySelectorAll(".wide").forEach((wide) => {
  wide.firstElementChild.addEventListener("scroll", () => markWide(wide), { passive: true });
  sizes.observe(wide.firstElementChild);
  sizes.observe(wide.querySelector("table"));
});
document.querySelectorAll("button.copy[data-text]").forEach((old) => old.replaceWith(copyButton(old.dataset.text)));

document.querySelectorAll("select.benchmark").forEach((select) => select.addEventListener("change", () => {
  const place = document.getElementById(select.dataset.target);
  place.dataset.chart = select.value;
  draw(place);
}));
document.getElementById("theme").addEventListener("click", () => {
  try { localStorage.setItem("luq-theme", root.dataset.theme === "dark" ? "light" : "dark"); } catch { /* no storage: until reload */ }
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  drawAll();
});
system.addEventListener("change", () => { setTheme(); drawAll(); });
let width = innerWidth;
addEventListener("resize", () => {
  if ((width < 640) !== (innerWidth < 640)) drawAll();
  width = innerWidth;
});
drawAll();
