"""The style sheet and the script of the report page; both are written into the page itself."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --shade: #1c212655; --ink: #1c2126; --soft: #5c6670; --rule: #d9dee3;
  --panel: #f5f7f9;
  --accent: #0b5cad; --note: #fff6dd; --note-rule: #d9a300; --whole: #9aa5b1; --random: #c3a46b;
  --matched: #5aa39a; --words: #4f86c6;
  --g0: #c2410c; --g1: #1d5fb0; --g2: #15803d; --g3: #7e22ce; --g4: #a16207; --g5: #be185d;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181c; --shade: #ffffff30; --ink: #e8ecef; --soft: #a3adb7; --rule: #343c44;
    --panel: #1d2329;
    --accent: #7db7f5; --note: #2f2810; --note-rule: #d9a300; --whole: #6f7b87; --random: #b0915a;
    --matched: #4d9c92; --words: #5b93d6;
    --g0: #fb923c; --g1: #7db7f5; --g2: #4ade80; --g3: #c792f7; --g4: #facc15; --g5: #f472b6;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .6rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .5rem; padding-top: .6rem;
  border-top: 1px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .3rem; }
p, .findings, .verdict { max-width: 78ch; } .verdict li { margin: .4rem 0; font-size: 1.05rem; }
a { color: var(--accent); }
code { font: .86em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; color: var(--soft);
  overflow-wrap: anywhere; }
.soft, .row-detail { color: var(--soft); }
.note { background: var(--note); border-left: 4px solid var(--note-rule); padding: .6rem .9rem;
  margin: .8rem 0; max-width: 84ch; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(155px, 1fr)); gap: 12px;
  margin: 1.4rem 0; padding: 0; list-style: none; }
.cards li { background: var(--panel); border: 1px solid var(--rule); border-radius: 8px;
  padding: .7rem .9rem; }
.cards b { display: block; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.cards span { display: block; color: var(--soft); font-size: .86rem; line-height: 1.35; }
/* A shadow at each side where more of the table is: two covers scroll along, two shadows stay. */
.scroll { overflow: auto; border: 1px solid var(--rule); border-radius: 8px;
  background:
    linear-gradient(to right, var(--paper) 40%, transparent) left / 36px 100% local no-repeat,
    linear-gradient(to left, var(--paper) 40%, transparent) right / 36px 100% local no-repeat,
    linear-gradient(to right, var(--shade), transparent) left / 16px 100% scroll no-repeat,
    linear-gradient(to left, var(--shade), transparent) right / 16px 100% scroll no-repeat; }
.hint { display: none; color: var(--accent); font-size: .86rem; margin: .5rem 0 .2rem; }
.hint.needed { display: block; }
.tall { max-height: 440px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: .5rem .8rem; font-size: .86rem; }
th, td { padding: .34rem .6rem; text-align: right; border-top: 1px solid var(--rule);
  white-space: nowrap; }
th[scope=row], td.text, th.text { text-align: left; white-space: normal; }
th[scope=row] { font-weight: 500; min-width: 130px; }
.leading .narrow { display: none; } .leading td small { white-space: normal; }
td.said { white-space: normal; text-align: left; color: var(--soft); }
td.more { color: var(--g2); font-weight: 600; } td.less { color: var(--g0); font-weight: 600; }
th[scope=row] small { display: block; color: var(--soft); font-weight: 400; line-height: 1.3; }
td small { display: block; color: var(--soft); line-height: 1.25; }
thead th { white-space: normal; vertical-align: bottom;
  position: sticky; top: 0; background: var(--panel); border-top: 0; z-index: 1; }
tr.family th { text-align: left; background: var(--panel); white-space: normal; }
tr.family span { font-weight: 400; color: var(--soft); margin-left: .6rem; }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0;
  padding: 0; cursor: pointer; }
th button::after { content: " \\2195"; color: var(--soft); }
th[aria-sort=ascending] button::after { content: " \\2191"; color: var(--accent); }
th[aria-sort=descending] button::after { content: " \\2193"; color: var(--accent); }
input[type=search] { font: inherit; padding: .3rem .6rem; margin: .4rem 0; width: 260px;
  max-width: 100%; color: inherit; background: var(--paper); border: 1px solid var(--rule);
  border-radius: 6px; }
figure { margin: 1rem 0 1.6rem; }
figure svg { width: 100%; max-width: 900px; display: block; }
.grid-of { display: grid; grid-template-columns: repeat(auto-fit, minmax(270px, 1fr));
  gap: 0 24px; } .grid-of figure { margin: .6rem 0; }
figcaption b { color: var(--ink); }
figcaption { margin-bottom: .3rem; color: var(--soft); font-size: .88rem; max-width: 84ch; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; margin: .3rem 0;
  list-style: none; font-size: .88rem; }
.legend i { display: inline-block; width: .75rem; height: .75rem; border-radius: 50%;
  margin-right: .4rem; vertical-align: -1px; }
details { margin: .6rem 0; } summary { cursor: pointer; }
dt { font-weight: 600; margin-top: .7rem; } dd { margin: 0 0 0 1.2rem; max-width: 78ch; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem;
  font-size: .9rem; }
dl.facts dt { font-weight: 400; color: var(--soft); margin: 0; }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
svg text { fill: var(--ink); font-size: 12px; }
svg .tick, svg .row-detail { fill: var(--soft); font-size: 11px; }
svg .row-label { font-weight: 600; } svg tspan.row-detail { font-weight: 400; }
svg .axis-title { fill: var(--soft); }
svg .grid { stroke: var(--rule); stroke-width: 1; }
svg .baseline { stroke: var(--soft); stroke-width: 1; }
svg .median { stroke: var(--ink); stroke-width: 2; }
svg .quartiles { stroke: var(--ink); stroke-width: 4; opacity: .55; }
svg .curve { stroke: var(--whole); stroke-width: 2.5; stroke-linecap: round; }
svg .line { stroke-width: 2; stroke-linecap: round; }
line.whole { stroke: var(--whole); } line.matched { stroke: var(--matched); }
line.group-0 { stroke: var(--g0); } line.group-1 { stroke: var(--g1); }
line.group-2 { stroke: var(--g2); } line.group-3 { stroke: var(--g3); }
line.group-4 { stroke: var(--g4); } line.group-5 { stroke: var(--g5); }
svg .dot { stroke: var(--paper); stroke-width: .7; }
.whole { fill: var(--whole); background: var(--whole); }
.random { fill: var(--random); background: var(--random); }
.matched { fill: var(--matched); background: var(--matched); }
.words { fill: var(--words); background: var(--words); }
.group-0 { fill: var(--g0); background: var(--g0); }
.group-1 { fill: var(--g1); background: var(--g1); }
.group-2 { fill: var(--g2); background: var(--g2); }
.group-3 { fill: var(--g3); background: var(--g3); }
.group-4 { fill: var(--g4); background: var(--g4); }
.group-5 { fill: var(--g5); background: var(--g5); }
.ink { fill: var(--ink); background: var(--ink); }
@media (max-width: 640px) {
  main { padding: 20px 14px 48px; } th, td { padding: .34rem .45rem; }
  th[scope=row] { min-width: 96px; max-width: 38vw; }
  .leading { font-size: .8rem; } .leading th, .leading td { padding: .3rem .2rem; }
  .leading th[scope=row] { min-width: 56px; } .leading .wide { display: none; }
  .leading .narrow { display: block; }
  dl.facts { grid-template-columns: 1fr; } dl.facts dd { margin-bottom: .4rem; }
}
@media print { .tall { max-height: none; } input[type=search] { display: none; } }
"""

# Sorting, filtering and a hint over wide tables; without it the page shows the same content.
SCRIPT = """
"use strict";
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const value = (row, column) => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
  };
  const order = (a, b) => {
    if (typeof a === "string" || typeof b === "string") return String(a).localeCompare(String(b));
    if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b);
    return a - b;
  };
  table.querySelectorAll("thead th").forEach((head, column) => {
    const button = head.querySelector("button");
    if (!button) return;
    button.addEventListener("click", () => {
      const rising = head.getAttribute("aria-sort") !== "ascending";
      for (const other of table.querySelectorAll("thead th")) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", rising ? "ascending" : "descending");
      const rows = [...body.rows].sort((a, b) => {
        const x = value(a, column), y = value(b, column);
        const absent = Number.isNaN(x) || Number.isNaN(y);
        return absent || rising ? order(x, y) : order(y, x);
      });
      body.append(...rows);
    });
  });
}
const hints = [...document.querySelectorAll(".scroll")].map(box => {
  const hint = document.createElement("p");
  hint.className = "hint";
  hint.textContent = "Wider than the page: scroll it sideways \\u2192";
  box.before(hint);
  return () => hint.classList.toggle("needed", box.scrollWidth > box.clientWidth + 1);
});
const tell = () => hints.forEach(check => check());
tell();
addEventListener("resize", tell);
for (const field of document.querySelectorAll("input[data-filter]")) {
  const body = document.getElementById(field.dataset.filter).tBodies[0];
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  });
}
"""
