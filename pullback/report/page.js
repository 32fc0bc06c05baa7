"use strict";
const body = document.querySelector("#images tbody");
const rows = Array.from(body.rows);
const heads = Array.from(document.querySelectorAll("#images th"));
// What says which image it is stands before its scores, whose digits nobody looks for.
const names = heads.findIndex((head) => head.textContent.trim() === "ρ");

function key(row, column) {
  const cell = row.cells[column];
  return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
}

function compare(a, b) {
  if (typeof a === "string") return a.localeCompare(b, undefined, { numeric: true });
  return a - b;
}

heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
  const down = head.getAttribute("aria-sort") === "ascending";
  heads.forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const absent = (row) => Number.isNaN(key(row, column));
  const there = rows.filter((row) => !absent(row));
  there.sort((a, b) => (down ? -1 : 1) * compare(key(a, column), key(b, column)));
  body.append(...there, ...rows.filter(absent));
}));

document.querySelector("#search").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  let found = 0;
  for (const row of rows) {
    const text = Array.from(row.cells).slice(0, names).map((cell) => cell.textContent).join(" ");
    row.hidden = !text.toLowerCase().includes(wanted);
    found += !row.hidden;
  }
  document.querySelector("#found").textContent = wanted ? `${found} found` : "";
});
