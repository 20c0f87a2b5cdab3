"use strict";
(() => {
  const data = JSON.parse(document.getElementById("gantt").textContent);
  const articles = [...document.querySelectorAll(".workload")];
  if (!articles.length) return;
  document.documentElement.classList.add("js");
  const SVG = "http://www.w3.org/2000/svg";
  const LANE = 15, UPLINK = 8, ALOFT = 7, DROPS = 9, GAP = 3;
  const now = data.workloads.map((workload) => workload.first);
  let current = 0;

  // A task as written by offload_gantt.py.
  function task(row) {
    const [id, kind, fate, reason, created, deadline, ended, lane, laneFrom, laneTo, upFrom, upTo, aloft] = row;
    return { id, kind, fate, reason, created, deadline, ended, lane, laneFrom, laneTo, upFrom, upTo, aloft };
  }

  function add(parent, name, attributes, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    parent.appendChild(made);
    return made;
  }

  function seconds(fromMs, ticks) {
    return ((fromMs + ticks * data.tick_ms) / 1000).toFixed(3) + " s";
  }

  function said(workload, stretch, one) {
    const at = (ticks) => seconds(stretch.from_ms, ticks);
    return `task ${one.id}, ${workload.kinds[one.kind]}: created at ${at(one.created)}, wanted by ${at(one.deadline)}`;
  }

  function told(workload, stretch, one) {
    const why = one.reason >= 0 ? ` (${data.reasons[one.reason]})` : "";
    return `${said(workload, stretch, one)}, ${data.fates[one.fate]} at ${seconds(stretch.from_ms, one.ended)}${why}`;
  }

  function drawTask(svg, workload, stretch, one, x, top) {
    const late = data.fates[one.fate] === "late";
    const group = add(svg, "g", { "data-id": one.id, class: `kind-${one.kind % 8}` });
    add(group, "title", {}, told(workload, stretch, one));
    const bar = (from, to, y, height, css) => {
      const width = Math.max(1.2, x(to) - x(from) - 0.6);
      add(group, "rect", { class: css + (late ? " bad-end" : ""), x: x(from), y, width, height, rx: 1.5 });
    };
    const cross = (at, y, height) => {
      const r = Math.min(4, height / 2 - 0.5), cx = x(at) - r - 2, cy = y + height / 2;
      add(group, "path", { class: "cross", d: `M${cx - r} ${cy - r}l${2 * r} ${2 * r}m0 ${-2 * r}l${-2 * r} ${2 * r}` });
    };
    if (one.lane >= 0) bar(one.laneFrom, one.laneTo, top.edge + one.lane * (LANE + 1), LANE, "part");
    if (one.upTo > one.upFrom) bar(one.upFrom, one.upTo, top.uplink, UPLINK, "part");
    if (late && one.upTo > one.upFrom && one.aloft < 0) cross(one.upTo, top.uplink, UPLINK);
    if (late && one.upTo === one.upFrom && one.lane >= 0) cross(one.laneTo, top.edge + one.lane * (LANE + 1), LANE);
    if (one.aloft >= 0) {
      bar(one.upTo, one.ended, top.aloft + one.aloft * (ALOFT + 1), ALOFT, "aloft");
      if (late) cross(one.ended, top.aloft + one.aloft * (ALOFT + 1), ALOFT);
    }
    if (data.fates[one.fate] === "dropped") {
      const at = x(one.ended);
      add(group, "path", { class: "drop", d: `M${at - 4} ${top.drops}h8l-4 ${DROPS - 1}z` });
    }
  }

  function drawPolicy(host, workload, stretch, index, width) {
    const tasks = stretch.tasks[index].map(task);
    const inside = (one) => one.created >= 0 && one.created * data.tick_ms < data.stretch_ms;
    const made = tasks.filter(inside);
    const count = (fate) => made.filter((one) => data.fates[one.fate] === fate).length;
    const rows = Math.max(1, ...tasks.map((one) => one.aloft + 1));
    const lanes = Math.max(workload.lanes, ...tasks.map((one) => one.lane + 1));
    const top = { edge: 1 };
    top.uplink = top.edge + lanes * (LANE + 1) + GAP;
    top.aloft = top.uplink + UPLINK + GAP;
    top.drops = top.aloft + rows * (ALOFT + 1) + GAP;
    const height = top.drops + DROPS + 1;

    const row = document.createElement("div");
    row.className = "chart-row";
    const head = document.createElement("div");
    const name = document.createElement("b");
    name.textContent = data.policies[index];
    head.appendChild(name);
    const done = made.length - count("late") - count("dropped");
    for (const words of [`${done} of ${made.length} in time`, `${count("late")} late, ${count("dropped")} dropped`]) {
      const small = document.createElement("small");
      small.textContent = words;
      head.appendChild(small);
    }
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("height", height);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${data.policies[index]}: ${done} of ${made.length} tasks in time`);
    const scale = width * data.tick_ms / data.stretch_ms;
    const x = (ticks) => Math.round(ticks * scale * 10) / 10;
    add(svg, "rect", { class: "floor", x: 0, y: top.edge, width, height: lanes * (LANE + 1) - 1 });
    add(svg, "rect", { class: "floor", x: 0, y: top.uplink, width, height: UPLINK });
    for (let ms = 0; ms <= data.stretch_ms; ms += 1000) {
      add(svg, "line", { class: "tick-line", x1: ms * width / data.stretch_ms, x2: ms * width / data.stretch_ms, y1: 0, y2: height });
    }
    for (const one of tasks) drawTask(svg, workload, stretch, one, x, top);
    svg.drawn = { tasks: new Map(tasks.map((one) => [one.id, one])), x, height };
    row.append(head, svg);
    host.appendChild(row);
  }

  function drawScale(host, stretch, width) {
    const row = document.createElement("div");
    row.className = "chart-row";
    row.append(document.createElement("div"));
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", `0 0 ${width} 14`);
    svg.setAttribute("height", 14);
    for (let ms = 0; ms <= data.stretch_ms; ms += 1000) {
      const anchor = ms === 0 ? "start" : ms === data.stretch_ms ? "end" : "middle";
      const text = (stretch.from_ms + ms) / 1000 + (ms === data.stretch_ms ? " s" : "");
      add(svg, "text", { x: ms * width / data.stretch_ms, y: 10, "text-anchor": anchor }, text);
    }
    row.append(svg);
    host.appendChild(row);
  }

  function draw() {
    const article = articles[current], workload = data.workloads[current];
    const stretch = workload.stretches[now[current]];
    const host = article.querySelector(".charts");
    host.replaceChildren();
    host.classList.remove("pointing");
    const width = Math.max(300, host.clientWidth - 122);
    drawScale(host, stretch, width);
    data.policies.forEach((_, index) => drawPolicy(host, workload, stretch, index, width));
    drawScale(host, stretch, width);
    for (const button of article.querySelectorAll("[data-stretch]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.stretch) === now[current]));
    }
    article.querySelectorAll(".day .cursor").forEach((cursor, column) => {
      const [left, wide] = workload.spans[column];
      cursor.hidden = false;
      cursor.style.left = left + wide * stretch.from_ms / workload.end_ms + "%";
      cursor.style.width = Math.min(wide, wide * data.stretch_ms / workload.end_ms) + "%";
    });
  }

  // The task under the pointer, in the charts of all policies, with its life from creation to deadline.
  function point(article, id) {
    const host = article.querySelector(".charts");
    const workload = data.workloads[current], stretch = workload.stretches[now[current]];
    for (const old of host.querySelectorAll(".pointed")) old.classList.remove("pointed");
    for (const old of host.querySelectorAll(".life, .life-area")) old.remove();
    host.classList.toggle("pointing", id !== null);
    const output = article.querySelector(".said");
    output.textContent = "";
    if (id === null) return;
    for (const group of host.querySelectorAll(`[data-id="${id}"]`)) group.classList.add("pointed");
    for (const svg of host.querySelectorAll("svg")) {
      const one = svg.drawn && svg.drawn.tasks.get(id);
      if (!one) continue;
      output.textContent = said(workload, stretch, one);
      const { x, height } = svg.drawn;
      const box = { x: x(one.created), y: 0, width: x(one.deadline) - x(one.created), height };
      svg.insertBefore(add(svg, "rect", { class: "life-area", ...box }), svg.firstChild);
      add(svg, "path", { class: "life", d: `M${x(one.created)} 0v${height}M${x(one.deadline)} 0v${height}` });
    }
  }

  function choose(index) {
    articles[current].classList.remove("now");
    current = index;
    articles[current].classList.add("now");
    for (const button of document.querySelectorAll("[data-workload]")) {
      button.setAttribute("aria-pressed", String(Number(button.dataset.workload) === current));
    }
    draw();
  }

  for (const button of document.querySelectorAll("[data-workload]")) {
    button.addEventListener("click", () => choose(Number(button.dataset.workload)));
  }
  for (const article of articles) {
    for (const button of article.querySelectorAll("[data-stretch]")) {
      button.addEventListener("click", () => { now[current] = Number(button.dataset.stretch); draw(); });
    }
    const host = article.querySelector(".charts");
    let pointed = null;
    const find = (event) => {
      const group = event.target.closest("[data-id]");
      const id = group ? Number(group.dataset.id) : null;
      if (id !== pointed) point(article, pointed = id);
    };
    host.addEventListener("pointerover", find);
    host.addEventListener("pointerleave", () => point(article, pointed = null));
  }
  let timer = 0;
  addEventListener("resize", () => { clearTimeout(timer); timer = setTimeout(draw, 150); });
  choose(0);
})();
