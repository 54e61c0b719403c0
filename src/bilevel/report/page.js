// A click on a header sorts by its column: ascending, then descending. Rows without a value stay last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th");
    const up = header.getAttribute("aria-sort") !== "ascending";
    for (const other of header.parentElement.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", up ? "ascending" : "descending");

    const numeric = header.classList.contains("number");
    const value = (row) => {
      const cell = row.cells[header.cellIndex];
      return numeric ? parseFloat(cell.dataset.value) : cell.textContent.trim();
    };
    const compare = (a, b) => {
      if (!numeric) return (up ? 1 : -1) * a.localeCompare(b, undefined, { numeric: true });
      return isNaN(a) - isNaN(b) || (up ? a - b : b - a) || 0;
    };
    const body = header.closest("table").tBodies[0];
    body.append(...[...body.rows].sort((a, b) => compare(value(a), value(b))));
  });
}
