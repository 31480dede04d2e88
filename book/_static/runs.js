// The list of all runs: shows those in which every word of the filter occurs. A hash in the address is a filter.
(() => {
  const MOST = 50;
  const names = ["experiment", "data", "method", "seed", "year", "test error"];
  const box = document.querySelector(".gd-runs");
  const input = box.querySelector("input"), said = box.querySelector("p");
  const body = box.querySelector("tbody"), head = box.querySelector("thead tr");
  const rows = RUNS.rows.map(row => [...row.slice(0, 6), RUNS.files[row[6]]]);
  const texts = rows.map(row => row.join(" ").toLowerCase());
  let order = rows.map((_, i) => i), column = null, down = false;

  function cell(value, place, row) {
    const td = document.createElement("td");
    if (place === 5) {
      const link = document.createElement("a");
      link.href = "../records/" + row[6];
      link.title = "show the record";
      link.textContent = value === null ? "diverged" : Number(value).toPrecision(5);
      td.append(link);
    } else td.textContent = value === null ? "" : value;
    return td;
  }
  function show() {
    const words = input.value.toLowerCase().split(/\s+/).filter(word => word);
    const found = order.filter(i => words.every(word => texts[i].includes(word)));
    body.replaceChildren(...found.slice(0, MOST).map(i => {
      const tr = document.createElement("tr");
      tr.append(...rows[i].slice(0, 6).map((value, place) => cell(value, place, rows[i])));
      return tr;
    }));
    said.textContent = `${found.length} of ${rows.length} runs` + (found.length > MOST ? `; the first ${MOST} are shown.` : ".") + " A test error leads to the record.";
  }
  names.forEach((name, place) => {
    const th = document.createElement("th"), button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.addEventListener("click", () => {
      down = column === place && !down;
      column = place;
      order.sort((i, j) => {
        const [a, b] = [rows[i][place], rows[j][place]];
        const less = a === b ? 0 : a === null ? 1 : b === null ? -1 : a < b ? -1 : 1;
        return down ? -less : less;
      });
      [...head.children].forEach((other, k) => other.ariaSort = k === place ? (down ? "descending" : "ascending") : null);
      show();
    });
    th.append(button);
    head.append(th);
  });
  input.addEventListener("input", show);
  const follow = () => { if (location.hash) input.value = decodeURIComponent(location.hash.slice(1)); show(); };
  addEventListener("hashchange", follow);
  follow();
})();
