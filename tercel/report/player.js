"use strict";
(() => {
  const films = JSON.parse(document.getElementById("films").textContent);
  const spans = JSON.parse(document.getElementById("spans").textContent);
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;
  root.classList.add("js");
  const articles = [...document.querySelectorAll(".sequence")];
  const choice = $("sequence");
  const trail = () => Math.max(2, (6 * film.raw.every) / film.raw.rate); // seconds
  const MAX_CHIPS = 60;
  let film = null;
  let chosen = -1;
  let now = 0;
  let focus = null; // the id that is pointed at
  let playing = false;

  const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const hue = (id) => (id * 137.508) % 360;
  const on = (layer) => $("layer-" + layer).checked;

  function starts(counts) {
    const result = new Uint32Array(counts.length + 1);
    counts.forEach((count, i) => { result[i + 1] = result[i] + count; });
    return result;
  }

  function decode(raw) {
    const boxes = (text) => new Int16Array(bytes(text).buffer);
    const wide = raw.ids.length >= 65536 ? Uint32Array : Uint16Array;
    const result = {
      raw, frames: new Uint32Array(bytes(raw.frames).buffer), first: starts(new Uint16Array(bytes(raw.counts).buffer)),
      index: new wide(bytes(raw.index).buffer), boxes: boxes(raw.boxes), unseen: bytes(raw.unseen),
      others: { first: starts(new Uint16Array(bytes(raw.others.counts).buffer)), index: bytes(raw.others.index), boxes: boxes(raw.others.boxes) },
      rows: raw.ids.map(() => []), at: [],
    };
    for (let f = 0; f < result.frames.length; f++) {
      for (let i = result.first[f]; i < result.first[f + 1]; i++) {
        result.rows[result.index[i]].push(i);
        result.at[i] = f;
      }
    }
    if (raw.above) {
      result.above = { boxes: boxes(raw.above.boxes), poses: boxes(raw.above.poses), scale: raw.above.scale };
      result.reach = reach(result);
    }
    result.images = raw.images || [];
    result.shown = [];
    return result;
  }

  // --- time

  const time = (f) => film.frames[f] / film.raw.rate;

  function picture(f) {
    if (!film.images[f]) return null;
    if (!film.shown[f]) {
      const image = new Image();
      image.onload = () => { if (film && film.shown[f] === image) draw(); };
      image.src = film.images[f];
      film.shown[f] = image;
    }
    return film.shown[f].complete ? film.shown[f] : null;
  }

  function show(f) {
    now = Math.max(0, Math.min(f, film.frames.length - 1));
    $("slider").value = now;
    const text = film.frames.length ? `${(time(now) - time(0)).toFixed(2)} s` : "–";
    $("clock").innerHTML = `${text}<small>frame ${film.frames.length ? film.frames[now] : "–"}</small>`;
    $("slider").setAttribute("aria-valuetext", text);
    const span = spans[chosen];
    const share = span.end > 0 ? (time(now) - span.begin) / span.end : 0;
    for (const cursor of articles[chosen].querySelectorAll(".cursor")) {
      cursor.hidden = false;
      cursor.style.left = span.left + share * span.width + "%";
    }
    draw();
  }

  function stop() {
    playing = false;
    $("play").textContent = "▶";
    $("play").setAttribute("aria-label", "Play");
  }

  function start() {
    if (!film.frames.length) return;
    playing = true;
    $("play").textContent = "❚❚";
    $("play").setAttribute("aria-label", "Pause");
    if (now >= film.frames.length - 1) show(0);
    let place = time(now);
    let last = performance.now();
    const step = (at) => {
      if (!playing) return;
      place += ((at - last) / 1000) * Number($("speed").value);
      last = at;
      let f = now;
      while (f + 1 < film.frames.length && time(f + 1) <= place) f++;
      // A long pause without detections is not waited for.
      if (f + 1 < film.frames.length && f === now && time(f + 1) - place > 2) place = time(f + 1);
      if (f !== now) show(f);
      if (now >= film.frames.length - 1) return stop();
      requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  // --- pictures

  function canvas(id, ratio) {
    const element = $(id);
    element.style.aspectRatio = ratio;
    const width = element.clientWidth;
    const density = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(width * density), Math.round((width / ratio) * density)];
    if (element.width !== w || element.height !== h) [element.width, element.height] = [w, h];
    const pen = element.getContext("2d");
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.clearRect(0, 0, width, width / ratio);
    return [pen, width, width / ratio];
  }

  function box(i, unit, boxes) {
    const [x0, y0, x1, y1] = [boxes[4 * i] * unit, boxes[4 * i + 1] * unit, boxes[4 * i + 2] * unit, boxes[4 * i + 3] * unit];
    return [x0, y0, x1 - x0, y1 - y0];
  }

  const dim = (id) => (focus !== null && focus !== id ? 0.25 : 1);

  function draw() {
    const [w, h] = film.raw.size;
    const [pen, width, height] = canvas("picture", w / h);
    const unit = width / w / film.raw.scale;
    const image = on("image") ? picture(now) : null;
    if (image) pen.drawImage(image, 0, 0, width, height); else grid(pen, width, height);
    if (!film.frames.length) return;
    if (on("others")) drawOthers(pen, unit);
    for (let i = film.first[now]; i < film.first[now + 1]; i++) if (on("trails")) drawTrail(pen, i, unit);
    for (let i = film.first[now]; i < film.first[now + 1]; i++) drawTrack(pen, i, unit, width);
    $("count").textContent = tell();
    drawChips();
    if (film.above) drawAbove();
  }

  function grid(pen, width, height) {
    pen.fillStyle = "#ffffff0d";
    for (let k = 1; k < 8; k++) pen.fillRect(Math.round((width * k) / 8), 0, 1, height);
    for (let k = 1; k < 4; k++) pen.fillRect(0, Math.round((height * k) / 4), width, 1);
  }

  function drawOthers(pen, unit) {
    const others = film.others;
    const kinds = film.raw.others.kinds;
    pen.lineWidth = 1;
    for (let i = others.first[now]; i < others.first[now + 1]; i++) {
      const rejected = kinds[others.index[i]].startsWith("rejected");
      pen.strokeStyle = rejected ? "#c2686899" : "#b6c0cd99";
      pen.setLineDash(rejected ? [2, 3] : []);
      pen.strokeRect(...box(i, unit, others.boxes));
    }
    pen.setLineDash([]);
  }

  function drawTrail(pen, i, unit) {
    const k = film.index[i];
    const rows = film.rows[k];
    const foot = (row) => {
      const [x, y, bw, bh] = box(row, unit, film.boxes);
      return [x + bw / 2, y + bh];
    };
    pen.lineWidth = 2;
    pen.lineCap = "round";
    pen.strokeStyle = `hsl(${hue(film.raw.ids[k])} 88% 64%)`;
    for (let row = rows.indexOf(i); row > 0; row--) {
      const age = (time(now) - time(film.at[rows[row - 1]])) / trail();
      if (age > 1) break;
      pen.globalAlpha = (1 - age) * 0.85 * dim(film.raw.ids[k]);
      pen.beginPath();
      pen.moveTo(...foot(rows[row]));
      pen.lineTo(...foot(rows[row - 1]));
      pen.stroke();
    }
    pen.globalAlpha = 1;
  }

  function drawTrack(pen, i, unit, width) {
    const k = film.index[i];
    const id = film.raw.ids[k];
    const [x, y, bw, bh] = box(i, unit, film.boxes);
    pen.globalAlpha = dim(id);
    pen.strokeStyle = `hsl(${hue(id)} 88% 64%)`;
    pen.lineWidth = focus === id ? 3 : 2;
    pen.setLineDash(film.unseen[i] ? [5, 4] : []);
    pen.strokeRect(x, y, bw, bh);
    pen.setLineDash([]);
    if (on("labels")) {
      pen.font = "600 11px system-ui, sans-serif";
      const name = new Set(film.raw.labels).size > 1 ? " " + film.raw.classes[film.raw.labels[k]] : "";
      const text = id + (focus === id || bw > 60 ? name : "");
      const wide = pen.measureText(text).width + 8;
      const left = Math.max(0, Math.min(x - 1, width - wide));
      const top = Math.max(0, y - 15);
      pen.fillStyle = `hsl(${hue(id)} 88% 70%)`;
      pen.fillRect(left, top, wide, 15);
      pen.fillStyle = "#0b0f16";
      pen.fillText(text, left + 4, top + 11);
    }
    pen.globalAlpha = 1;
  }

  // --- from above: forward is up

  function reach(f) {
    const far = [];
    for (let at = 0; at < f.frames.length; at++) {
      for (let i = f.first[at]; i < f.first[at + 1]; i++) {
        const [x, y] = relative(f, at, f.above.boxes[5 * i] / f.above.scale, f.above.boxes[5 * i + 1] / f.above.scale);
        far.push(Math.hypot(x, y));
      }
    }
    far.sort((a, b) => a - b);
    return Math.min(100, Math.max(20, (far[Math.floor(far.length * 0.95)] || 40) * 1.05));
  }

  function relative(f, at, x, y) {
    const [px, py, yaw] = [f.above.poses[3 * at] / f.above.scale, f.above.poses[3 * at + 1] / f.above.scale, f.above.poses[3 * at + 2] / 1e4];
    const [dx, dy, c, s] = [x - px, y - py, Math.cos(yaw), Math.sin(yaw)];
    return [c * dx + s * dy, c * dy - s * dx];
  }

  function drawAbove() {
    const [pen, width, height] = canvas("above", 1);
    if (film.above.poses[3 * now + 2] === 32767) return;
    const unit = (height * 0.9) / film.reach;
    const place = (x, y) => [width / 2 - y * unit, height * 0.95 - x * unit];
    pen.strokeStyle = "#5d6b8080";
    pen.fillStyle = "#94a2b6";
    pen.lineWidth = 1;
    pen.font = "10px system-ui, sans-serif";
    for (let r = 20; r < film.reach * 1.4; r += 20) {
      pen.beginPath();
      pen.arc(...place(0, 0), r * unit, 0, 2 * Math.PI);
      pen.stroke();
      if (r < film.reach) pen.fillText(r + " m", place(r, 0)[0] + 3, place(r, 0)[1] - 3);
    }
    for (let i = film.first[now]; i < film.first[now + 1]; i++) drawFromAbove(pen, i, place, unit);
    const [x, y] = place(0, 0);
    pen.fillStyle = "#fff";
    pen.fill(new Path2D(`M${x} ${y - 9}l-5 15h10z`));
  }

  function drawFromAbove(pen, i, place, unit) {
    const id = film.raw.ids[film.index[i]];
    const [b, scale] = [film.above.boxes, film.above.scale];
    const at = (row) => place(...relative(film, now, b[5 * row] / scale, b[5 * row + 1] / scale));
    const [l, w] = [(b[5 * i + 2] / 100) * unit, (b[5 * i + 3] / 100) * unit];
    const turn = b[5 * i + 4] / 1e4 - film.above.poses[3 * now + 2] / 1e4;
    pen.strokeStyle = `hsl(${hue(id)} 88% 64%)`;
    pen.globalAlpha = dim(id);
    pen.lineWidth = focus === id ? 3 : 1.75;
    pen.setLineDash(film.unseen[i] ? [4, 3] : []);
    pen.save();
    pen.translate(...at(i));
    pen.rotate(-turn);
    pen.strokeRect(-w / 2, -l / 2, w, l);
    pen.strokeRect(0, -l / 2 - 4, 0, 4);
    pen.restore();
    pen.setLineDash([]);
    if (on("trails")) {
      const rows = film.rows[film.index[i]];
      pen.lineWidth = 1.5;
      pen.globalAlpha = 0.6 * dim(id);
      pen.beginPath();
      pen.moveTo(...at(i));
      for (let row = rows.indexOf(i) - 1; row >= 0 && time(now) - time(film.at[rows[row]]) < trail(); row--) pen.lineTo(...at(rows[row]));
      pen.stroke();
    }
    pen.fillStyle = `hsl(${hue(id)} 90% 78%)`;
    pen.font = "600 10px system-ui, sans-serif";
    if (on("labels")) pen.fillText(id, at(i)[0] + Math.max(l, w) / 2 + 2, at(i)[1] + 3);
    pen.globalAlpha = 1;
  }

  // --- words

  function tell() {
    const counts = {};
    for (let i = film.others.first[now]; i < film.others.first[now + 1]; i++) {
      const kind = film.raw.others.kinds[film.others.index[i]];
      counts[kind] = (counts[kind] || 0) + 1;
    }
    const shown = film.first[now + 1] - film.first[now];
    const rest = Object.keys(counts).sort().map((kind) => `${counts[kind]} ${kind}`);
    const about = focus === null ? "" : " · " + describe(focus);
    return [`${shown} track${shown === 1 ? "" : "s"}`, ...rest].join(" · ") + about;
  }

  // The tracks shown now, as a list to point at.
  function drawChips() {
    const chips = [];
    for (let i = film.first[now]; i < film.first[now + 1] && chips.length < MAX_CHIPS; i++) {
      const k = film.index[i];
      const id = film.raw.ids[k];
      const chip = document.createElement("span");
      chip.className = "chip" + (focus === id ? " pointed" : "") + (film.unseen[i] ? " unseen" : "");
      chip.style.setProperty("--h", hue(id));
      chip.dataset.id = id;
      const since = (time(now) - time(film.at[film.rows[k][0]])).toFixed(1);
      chip.textContent = `${id} ${film.raw.classes[film.raw.labels[k]]} ${since} s`;
      chips.push(chip);
    }
    $("chips").replaceChildren(...chips);
  }

  function describe(id) {
    const k = film.raw.ids.indexOf(id);
    if (k < 0) return `track ${id}`;
    const rows = film.rows[k];
    const since = time(now) - time(film.at[rows[0]]);
    const age = since < 0 ? `begins in ${(-since).toFixed(1)} s` : `${since.toFixed(1)} s since first shown`;
    return `track ${id}, ${film.raw.classes[film.raw.labels[k]]}: ${age}, shown in ${rows.length} frames`;
  }

  function point(id) {
    if (focus === id) return;
    focus = id;
    for (const life of articles[chosen].querySelectorAll(".life")) life.classList.toggle("faint", id !== null && Number(life.dataset.id) !== id);
    draw();
  }

  // --- the page

  function choose(index) {
    stop();
    chosen = index;
    focus = null;
    film = decode(films[index]);
    choice.value = index;
    articles.forEach((article, i) => article.classList.toggle("now", i === index));
    $("picture").parentElement.style.setProperty("--ratio", film.raw.size[0] / film.raw.size[1]);
    $("above-view").hidden = !film.above;
    $("views").classList.toggle("with-above", Boolean(film.above));
    $("image-layer").hidden = !film.images.length;
    $("slider").max = Math.max(0, film.frames.length - 1);
    show(0);
  }

  // The one that is pointed at: of those around the pointer the smallest.
  function under(event) {
    const place = $("picture").getBoundingClientRect();
    const unit = place.width / film.raw.size[0] / film.raw.scale;
    const [px, py] = [event.clientX - place.left, event.clientY - place.top];
    let best = null;
    let least = Infinity;
    for (let i = film.first[now]; i < film.first[now + 1]; i++) {
      const [x, y, w, h] = box(i, unit, film.boxes);
      if (px >= x && px <= x + w && py >= y && py <= y + h && w * h < least) [best, least] = [film.raw.ids[film.index[i]], w * h];
    }
    return best;
  }

  $("chips").addEventListener("mouseover", (event) => point(event.target.dataset.id ? Number(event.target.dataset.id) : null));
  $("chips").addEventListener("mouseleave", () => point(null));
  $("picture").addEventListener("mousemove", (event) => point(under(event)));
  $("picture").addEventListener("mouseleave", () => point(null));
  $("slider").addEventListener("input", () => { stop(); show(Number($("slider").value)); });
  $("play").addEventListener("click", () => (playing ? stop() : start()));
  choice.addEventListener("change", () => choose(Number(choice.value)));
  for (const layer of document.querySelectorAll(".layers input")) layer.addEventListener("change", draw);
  for (const link of document.querySelectorAll("[data-sequence]")) link.addEventListener("click", () => choose(Number(link.dataset.sequence)));
  document.addEventListener("keydown", (event) => {
    if (/^(INPUT|SELECT|BUTTON|A|SUMMARY)$/.test(event.target.tagName) && event.target.type !== "range") return;
    if (event.key === " ") { event.preventDefault(); if (playing) stop(); else start(); }
  });
  articles.forEach((article, index) => {
    for (const panel of article.querySelectorAll(".panel")) {
      panel.addEventListener("click", (event) => {
        const place = panel.getBoundingClientRect();
        const share = (((event.clientX - place.left) / place.width) * 100 - spans[index].left) / spans[index].width;
        const wanted = spans[index].begin + share * spans[index].end;
        let f = 0;
        while (f + 1 < film.frames.length && time(f + 1) <= wanted) f++;
        stop();
        show(f);
      });
      panel.addEventListener("mouseover", (event) => {
        const life = event.target.closest(".life");
        point(life ? Number(life.dataset.id) : null);
      });
      panel.addEventListener("mouseleave", () => point(null));
    }
  });
  window.addEventListener("resize", draw);
  choose(0);
  show(Math.floor(film.frames.length / 3));
})();
