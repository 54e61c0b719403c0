// Review mode: a reader accepts, rejects or relabels the rows of a table. The decisions are kept in the browser.
for (const list of document.querySelectorAll(".review")) {
  const classes = JSON.parse(list.dataset.classes);
  const keys = JSON.parse(list.dataset.keys);
  const store = `bilevel-review-${list.dataset.run}`;
  const panel = list.querySelector(".panel");
  const select = panel.querySelector("select");
  const scroll = list.querySelector(".scroll");
  const body = list.querySelector("tbody");
  const rows = [...body.rows]; // in the order of the page; a click on a header changes the order of `body.rows`
  const decisions = new Map(); // class by row
  const past = []; // rows and their former classes, for undo
  let current = rows[0];

  const given = (row) => Number(row.dataset.given);
  const suggested = (row) => Number(row.dataset.suggested);
  const decision = (row) => {
    const label = decisions.get(row);
    if (label === undefined) return "";
    return label === given(row) ? "reject" : label === suggested(row) ? "accept" : "relabel";
  };

  const load = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(store) ?? "{}");
      for (const row of rows) {
        const label = kept[row.dataset.row];
        if (Number.isInteger(label) && label >= 0 && label < classes.length) decisions.set(row, label);
      }
    } catch {
      saved(false);
    }
  };
  const save = () => {
    try {
      const kept = rows.filter((row) => decisions.has(row)).map((row) => [row.dataset.row, decisions.get(row)]);
      localStorage.setItem(store, JSON.stringify(Object.fromEntries(kept)));
      saved(true);
    } catch {
      saved(false);
    }
  };
  const saved = (done) => {
    panel.querySelector(".saved").textContent = done
      ? "Decisions are kept in this browser."
      : "This browser does not keep the decisions; download them before you close the page.";
  };

  const paint = (row) => {
    const made = decision(row);
    row.classList.remove("accept", "reject", "relabel");
    if (made) row.classList.add(made);
    row.querySelector(".decision").textContent = made && `${made}: ${classes[decisions.get(row)]}`;
  };
  const show = () => {
    for (const row of rows) row.classList.toggle("current", row === current);
    const subject = panel.querySelector(".subject");
    const image = current.querySelector("img");
    const details = current.querySelector("template");
    subject.replaceChildren(
      ...(image ? [image.cloneNode()] : []),
      ...(details ? [details.content.cloneNode(true)] : []),
    );
    const place = [...body.rows].indexOf(current) + 1;
    panel.querySelector(".where").textContent = `Row ${current.dataset.row}, ${place} of ${rows.length}`;
    const same = given(current) === suggested(current);
    const button = (name) => panel.querySelector(`[data-do=${name}]`);
    button("accept").hidden = same;
    button("accept").querySelector("span").textContent = `Accept: the label is ${classes[suggested(current)]}`;
    button("reject").querySelector("span").textContent = same
      ? `Keep: ${classes[given(current)]} is right`
      : `Reject: ${classes[given(current)]} is right`;
    for (const name of ["accept", "reject"]) {
      button(name).setAttribute("aria-pressed", String(decision(current) === name));
    }
    select.value = decision(current) === "relabel" ? String(decisions.get(current)) : "";
    const count = (name) => rows.filter((row) => decision(row) === name).length;
    panel.querySelector("progress").value = decisions.size;
    panel.querySelector(".progress span").textContent =
      `${decisions.size} of ${rows.length} decided: ${count("accept")} accepted, ${count("reject")} rejected, ` +
      `${count("relabel")} relabelled`;
    // Only the table scrolls: the panel stays in view.
    const box = scroll.getBoundingClientRect();
    const line = current.getBoundingClientRect();
    const head = list.querySelector("thead").getBoundingClientRect().height;
    if (line.top < box.top + head) scroll.scrollTop -= box.top + head - line.top;
    if (line.bottom > box.bottom) scroll.scrollTop += line.bottom - box.bottom;
  };

  const move = (step) => {
    const order = [...body.rows];
    current = order[Math.min(Math.max(order.indexOf(current) + step, 0), order.length - 1)];
    show();
  };
  const decide = (label) => {
    past.push([current, decisions.get(current)]);
    decisions.set(current, label);
    paint(current);
    save();
    // The next row without a decision, from here to the end and then from the top.
    const order = [...body.rows];
    const place = order.indexOf(current);
    current = [...order.slice(place), ...order.slice(0, place)].find((row) => !decisions.has(row)) ?? current;
    show();
  };
  const undo = () => {
    const [row, label] = past.pop() ?? [current, undefined];
    if (label === undefined) decisions.delete(row);
    else decisions.set(row, label);
    current = row;
    paint(row);
    save();
    show();
  };
  const cell = (text) => (/[",\r\n]|^$|^\s|\s$/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  const download = () => {
    const lines = [["row", "given", "suggested", "decision", "checked_label"]];
    for (const row of rows) {
      if (!decisions.has(row)) continue;
      const names = [given(row), suggested(row), decisions.get(row)].map((label) => classes[label]);
      lines.push([row.dataset.row, names[0], names[1], decision(row), names[2]]);
    }
    const text = lines.map((line) => line.map(cell).join(",") + "\n").join("");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
    link.download = list.dataset.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  };

  const actions = {
    accept: () => given(current) !== suggested(current) && decide(suggested(current)),
    reject: () => decide(given(current)),
    previous: () => move(-1),
    next: () => move(1),
    undo,
    download,
  };
  const shortcuts = {
    a: "accept", r: "reject", u: "undo", j: "next", k: "previous",
    arrowdown: "next", arrowup: "previous", arrowright: "next", arrowleft: "previous",
  };
  list.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select")) return;
    const key = event.key.toLowerCase();
    if (Object.hasOwn(shortcuts, key)) actions[shortcuts[key]]();
    else if (Object.hasOwn(keys, key)) decide(keys[key]);
    else return;
    event.preventDefault();
  });
  for (const button of panel.querySelectorAll("button")) {
    button.addEventListener("click", () => actions[button.dataset.do]());
  }
  select.addEventListener("change", () => {
    if (select.value !== "") decide(Number(select.value));
    panel.focus({ preventScroll: true });
  });
  body.addEventListener("click", (event) => {
    current = event.target.closest("tr");
    show();
  });

  load();
  rows.forEach(paint);
  current = rows.find((row) => !decisions.has(row)) ?? rows[0];
  panel.hidden = false;
  show();
  scroll.scrollTop = decisions.size ? scroll.scrollTop : 0;
}
