(() => {
  // One player. Its frames hold: t title, s sentence, w weights, n nodes, a widths of edges, c framed weights,
  // x and y of the cursor, d and e paths of curves.
  const box = document.currentScript.closest(".gd-player");
  const find = (css) => box.querySelector(css);
  const frames = JSON.parse(find('script[type="application/json"]').textContent);
  const slider = find("input"), button = find("button"), say = find(".gd-say");
  const stills = box.querySelectorAll(".gd-still");
  const live = stills[1].cloneNode(true); // the last drawing holds all that ever was there
  live.className = "gd-live";
  live.querySelector("p").remove();
  find(".gd-views").prepend(live);
  box.classList.add("gd-on");
  const all = (css) => [...live.querySelectorAll(css)];
  const slots = all(".gd-w"), nodes = all(".gd-node"), arcs = all(".gd-arc"), curves = all(".gd-after");
  const most = Math.max(...frames.flatMap((frame) => frame.w || []));
  let timer = null;

  function show(number) {
    const frame = frames[number];
    slots.forEach((slot, i) => {
      const weight = frame.w[i];
      slot.classList.toggle("gd-off", weight === -1);
      slot.classList.toggle("gd-gone", weight === -2);
      slot.classList.toggle("gd-chosen", (frame.c || []).includes(i));
      const [track, bar] = slot.children;
      bar.style.width = (track.width.baseVal.value * Math.max(weight, 0)) / most + "px";
      slot.lastElementChild.textContent = weight === -2 ? "\u00d7" : weight < 0 ? "" : Math.round(weight / 10);
    });
    nodes.forEach((node, i) => {
      node.classList.toggle("gd-off", !frame.n[i]);
      node.classList.toggle("gd-new", frame.n[i] === 2);
    });
    arcs.forEach((arc, i) => (arc.style.strokeWidth = frame.a[i]));
    curves.forEach((curve, i) => curve.setAttribute("d", i ? frame.e : frame.d));
    if ("x" in frame) {
      find(".gd-cursor").setAttribute("transform", `translate(${frame.x},0)`);
      const dot = find(".gd-dot");
      dot.setAttribute("cx", frame.x);
      dot.setAttribute("cy", frame.y);
    }
    find(".gd-title").textContent = frame.t;
    say.textContent = frame.s;
    slider.value = number;
    slider.setAttribute("aria-valuetext", frame.t + ". " + frame.s);
  }
  const go = (number) => show(Math.max(0, Math.min(frames.length - 1, number)));

  function play(on) {
    clearInterval(timer);
    timer = null;
    button.textContent = on ? "\u275a\u275a" : "\u25b6";
    button.setAttribute("aria-label", on ? "Pause" : "Play");
    say.setAttribute("aria-live", on ? "off" : "polite"); // nobody can listen that fast
    if (!on) return;
    if (+slider.value === frames.length - 1) go(0);
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    timer = setInterval(() => {
      const changed = frames[+slider.value + 1].t.startsWith("After");
      go(+slider.value + 1);
      if (+slider.value === frames.length - 1) play(false);
      else if (changed) { clearInterval(timer); timer = setTimeout(() => play(true), 1600); } // time to look
    }, calm ? 1200 : Math.max(150, Math.min(700, 15000 / frames.length)));
  }
  button.addEventListener("click", () => play(!timer));
  slider.addEventListener("input", () => { play(false); go(+slider.value); });
  box.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step || event.target === slider) return; // the slider has its own keys
    event.preventDefault();
    play(false);
    go(+slider.value + step);
  });
  show(0);
})();
