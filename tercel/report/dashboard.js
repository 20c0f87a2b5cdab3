// The page: one stream of events says what is new, pictures are fetched one after another, so that a slow tablet gets
// fewer of them and never old ones. All that comes from outside becomes text, never markup.
import { MapView } from "./dashboard_map.js";

const $ = (selector, root = document) => root.querySelector(selector);
const LEVELS = { ok: "● ok", warn: "▲ warning", error: "✖ error", stale: "◌ silent" };
const FATES = ["edge", "cloud", "split", "late", "dropped"];
const FATE_WORDS = { edge: "on the board", cloud: "in the cloud", split: "split", late: "late", dropped: "dropped" };
const OLD_S = 2;

let heardAt = 0; // performance.now() of the last event
let refused = false; // the server has answered, but with no stream of events
let tables = null;
let tablesAt = 0;

// --- small things ---

function element(tag, text = "", css = "") {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = text;
  if (css) made.className = css;
  return made;
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const digits = (value, places = 1) => (value === null || value === undefined ? "–" : value.toFixed(places));

function span(seconds) {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

function size(bytes) {
  if (bytes < 1e3) return `${bytes} B`;
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(bytes < 1e4 ? 1 : 0)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

const clock = (secondsAgo) => new Date(Date.now() - secondsAgo * 1000).toLocaleTimeString([], { hour12: false });
const sinceTables = () => (performance.now() - tablesAt) / 1000;

// One table row for each key, kept from one update to the next.
function rows(body, list, make, update) {
  const known = new Map([...body.children].map((row) => [row.dataset.key, row]));
  list.forEach((item, index) => {
    let row = known.get(item.name);
    if (!row) {
      row = make(item);
      row.dataset.key = item.name;
    }
    known.delete(item.name);
    if (body.children[index] !== row) body.insertBefore(row, body.children[index] || null);
    update(row, item);
  });
  for (const row of known.values()) row.remove();
}

function cellsOf(classes) {
  const row = element("tr");
  for (const css of classes) row.append(element("td", "", css));
  return row;
}

function fill(row, texts) {
  texts.forEach((text, index) => {
    if (text !== null) say(row.children[index], text);
  });
}

function fit(canvas) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const width = Math.round(canvas.clientWidth * ratio);
  const height = Math.round(canvas.clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
  return ratio;
}

// Fetches what wakes it up, one at a time, always the newest.
function fetcher(url, take) {
  let busy = false;
  let again = false;
  return async function wake() {
    again = true;
    if (busy) return;
    busy = true;
    try {
      while (again) {
        again = false;
        const where = url();
        if (!where) continue;
        const answer = await fetch(where);
        if (answer.ok) {
          const data = await answer.arrayBuffer();
          const length = new DataView(data).getUint32(0, true);
          const head = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
          await take(head, data, 4 + length);
        }
      }
    } catch {
      // The server is gone for now: the stream of events says so.
    } finally {
      busy = false;
    }
  };
}

function choose(select, names, chosen) {
  select.hidden = names.length < 2;
  if ([...select.options].map((o) => o.value).join("\n") !== names.join("\n")) {
    select.replaceChildren(...names.map((name) => new Option(name, name)));
  }
  if (select.value !== chosen) select.value = chosen;
}

// --- camera ---

const camera = { card: $("#camera"), topics: [], topic: "", wanted: "", version: "", head: null, bitmap: null };
const cameraCanvas = $("canvas", camera.card);
$("select", camera.card).addEventListener("change", (event) => {
  camera.wanted = event.target.value;
  camera.version = "";
  cameraNews(camera.versions);
});

const fetchCamera = fetcher(
  () => camera.topic && `/camera?topic=${encodeURIComponent(camera.topic)}`,
  async (head, data, at) => {
    const bitmap = head.problem ? null : await createImageBitmap(new Blob([data.slice(at)], { type: "image/jpeg" }));
    camera.bitmap?.close();
    [camera.head, camera.bitmap] = [head, bitmap];
    drawCamera();
  },
);

function cameraNews(versions) {
  camera.versions = versions;
  camera.topics = Object.keys(versions);
  const plain = camera.topics.filter((name) => !name.includes("depth"));
  camera.topic = [camera.wanted, camera.topic, plain[0], camera.topics[0]].find((name) => camera.topics.includes(name)) || "";
  choose($("select", camera.card), camera.topics, camera.topic);
  const version = `${camera.topic} ${versions[camera.topic]}`;
  if (camera.topic && version !== camera.version) {
    camera.version = version;
    fetchCamera();
  }
}

function drawCamera() {
  const { head, bitmap } = camera;
  const ratio = fit(cameraCanvas);
  const paint = cameraCanvas.getContext("2d");
  paint.clearRect(0, 0, cameraCanvas.width, cameraCanvas.height);
  const empty = $(".empty", camera.card);
  empty.hidden = Boolean(bitmap);
  if (head && head.problem) say(empty, `${head.topic}: ${head.problem}`);
  if (!bitmap) return;
  const scale = Math.min(cameraCanvas.width / head.width_px, cameraCanvas.height / head.height_px);
  const [width, height] = [head.width_px * scale, head.height_px * scale];
  const [left, top] = [(cameraCanvas.width - width) / 2, (cameraCanvas.height - height) / 2];
  paint.drawImage(bitmap, left, top, width, height);
  paint.save();
  paint.beginPath();
  paint.rect(left, top, width, height);
  paint.clip();
  paint.translate(left, top);
  drawBoxes(paint, head.boxes, scale, ratio, width);
  paint.restore();
}

function drawBoxes(paint, boxes, scale, ratio, width) {
  paint.lineWidth = 2 * ratio;
  for (const [x0, y0, x1, y1, hue] of boxes) {
    paint.strokeStyle = `hsl(${hue} 88% 62%)`;
    paint.strokeRect(x0 * scale, y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale);
  }
  paint.font = `600 ${11.5 * ratio}px system-ui, sans-serif`;
  paint.textBaseline = "middle";
  const high = 16 * ratio;
  const placed = [];
  for (const [x0, y0, , , hue, id, words] of boxes) {
    const text = id === null ? words : `${id}  ${words}`;
    const wide = paint.measureText(text).width + 8 * ratio;
    const x = Math.max(0, Math.min(x0 * scale - ratio, width - wide));
    const y = Math.max(0, y0 * scale - high);
    if (placed.some(([px, py, pw]) => x < px + pw && px < x + wide && Math.abs(y - py) < high)) continue;
    placed.push([x, y, wide]);
    paint.fillStyle = `hsl(${hue} 88% 70%)`;
    paint.fillRect(x, y, wide, high);
    paint.fillStyle = "#0b0f16";
    paint.fillText(text, x + 4 * ratio, y + high / 2 + 0.5 * ratio);
  }
}

// --- map ---

const map = { card: $("#map"), clouds: [], wanted: "", version: -1, head: null };
const mapView = new MapView($("canvas", map.card), $(".tools", map.card), fit);
$("select", map.card).addEventListener("change", (event) => {
  map.wanted = event.target.value;
  fetchMap();
});

const fetchMap = fetcher(
  () => (map.wanted ? `/map?cloud=${encodeURIComponent(map.wanted)}` : "/map"),
  async (head, data, at) => {
    map.head = head;
    mapView.take(head, data, at);
    $(".empty", map.card).hidden = head.frame !== null;
    choose($("select", map.card), map.clouds, head.sweep || "");
  },
);

// --- tables ---

const rates = new Map(); // topic: the rates of the last minute

function sparkline(path, values) {
  const most = Math.max(...values, 1e-9) * 1.1;
  const step = 78 / 59;
  const first = 60 - values.length;
  path.setAttribute("d", values.map((v, i) => `${i ? "L" : "M"}${((first + i) * step).toFixed(1)} ${(19 - (18 * v) / most).toFixed(1)}`).join(""));
}

function showTopics() {
  const body = $("#topics tbody");
  for (const name of rates.keys()) if (!tables.topics.some((topic) => topic.name === name)) rates.delete(name);
  rows(
    body,
    tables.topics,
    () => {
      const row = cellsOf(["", "type", "n", "spark", "n", "n", "n"]);
      const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      svg.append(document.createElementNS("http://www.w3.org/2000/svg", "path"));
      row.children[3].append(svg);
      return row;
    },
    (row, topic) => {
      const past = rates.get(topic.name) || [];
      past.push(topic.rate_hz);
      if (past.length > 60) past.shift();
      rates.set(topic.name, past);
      if (past.length > 1) sparkline($("path", row), past);
      row.classList.toggle("gone", topic.stopped || !topic.offered);
      row.children[0].title = topic.name;
      row.children[1].title = topic.type;
      const seen = topic.count > 0;
      fill(row, [
        topic.name, topic.type.split("/").pop(), seen ? digits(topic.rate_hz) : "–", null,
        seen ? size(topic.rate_bytes) : "–", digits(topic.latency_ms, 0), seen ? digits(topic.age_s) : "never",
      ]);
    },
  );
  $("#topics .none").hidden = tables.topics.length > 0;
  const left = tables.left_out ? `; ${tables.left_out} more are not shown` : "";
  say($("#topics [data-part=note]"), tables.topics.length ? `${tables.topics.length} topics, ${tables.nodes.length} nodes${left}` : "");
}

function showComponents() {
  rows(
    $("#components tbody"),
    tables.components,
    () => {
      const row = cellsOf(["", "state", "n", "n", "n", "n", "n", "n"]);
      row.children[0].append(element("span"), " ", element("small"));
      return row;
    },
    (row, part) => {
      row.classList.toggle("gone", part.level === "stale");
      const [node, ...rest] = part.name.split(": "); // "node: component", as live hosts name them
      say(row.children[0].children[0], rest.join(": ") || node);
      say(row.children[0].children[1], rest.length ? node : part.message);
      row.children[0].title = `${part.name} ${part.kind}: ${part.message}`;
      row.children[1].className = `state level-${part.level}`;
      const lost = part.dropped === null && part.rejected === null ? null : (part.dropped || 0) + (part.rejected || 0);
      row.children[7].title = part.reasons.join("\n");
      fill(row, [
        null, LEVELS[part.level], digits(part.rate_in_hz), digits(part.rate_hz), digits(part.latency_ms_p50),
        digits(part.latency_ms_p99), digits(part.took_ms_p50), lost === null ? "–" : String(lost),
      ]);
    },
  );
  $("#components .none").hidden = tables.components.length > 0;
  const lost = tables.components.reduce((sum, part) => sum + (part.dropped || 0) + (part.rejected || 0), 0);
  say($("#components [data-part=note]"), tables.components.length ? `dropped or rejected in all: ${lost}` : "");
}

function alarmItem(alarm, when) {
  const item = element("li");
  const what = element("p", "", "what");
  what.append(element("i", alarm.subject), alarm.text);
  item.append(element("b", LEVELS[alarm.level], `level-${alarm.level}`), what, element("time", when));
  return item;
}

function showAlarms() {
  const on = tables.alarms;
  const past = tables.past_alarms;
  const [list, over] = document.querySelectorAll("#alarms ul");
  list.replaceChildren(...on.map((alarm) => alarmItem(alarm, `since ${clock(alarm.for_s)} (${span(alarm.for_s)})`)));
  over.replaceChildren(...past.map((alarm) => alarmItem(alarm, `${clock(alarm.ended_s + alarm.for_s)}, for ${span(alarm.for_s)}`)));
  $("#alarms h3").hidden = !past.length;
  $("#alarms .none").hidden = on.length > 0;
  say($("#alarms [data-part=note]"), on.length ? `${on.length} now` : "");
  const verdict = $("#verdict");
  const nothing = !tables.topics.some((topic) => topic.count);
  say($("#alarms .none"), nothing ? "Nothing has come yet" : "Nothing is wrong");
  const level = on.length ? on[0].level : nothing ? "idle" : "ok";
  if (verdict.className !== `verdict ${level}`) verdict.className = `verdict ${level}`;
  const worst = on[0];
  if (worst) {
    say($("b", verdict), `${LEVELS[level].slice(0, 1)} ${on.length} ${on.length === 1 ? "alarm" : "alarms"}`);
    say($("span", verdict), `${worst.subject}: ${worst.text}`);
  } else if (nothing) {
    say($("b", verdict), "Nothing has come yet");
    say($("span", verdict), `Listening to ${tables.source}. Robots appear here when they speak.`);
  } else {
    say($("b", verdict), "● No alarms");
    say($("span", verdict), `${tables.topics.filter((topic) => topic.rate_hz > 0).length} topics alive`);
  }
}

const kindOf = (fate) => FATES.find((kind) => fate.endsWith(kind)) || "other";

function showOffload() {
  const told = tables.offload;
  const card = $("#offload");
  for (const part of ["canvas", ".axis", ".fates", ".policies"]) $(part, card).hidden = !told;
  $(".none", card).hidden = Boolean(told);
  say($("[data-part=note]", card), "");
  if (!told) return;
  const fates = Object.keys(told.fates).sort((a, b) => FATES.indexOf(kindOf(a)) - FATES.indexOf(kindOf(b)));
  const total = fates.reduce((sum, fate) => sum + told.fates[fate], 0);
  const p50 = told.response_p50_ms === null ? "" : `, answer p50 ${digits(told.response_p50_ms, 0)} ms, p90 ${digits(told.response_p90_ms, 0)} ms`;
  const silent = told.age_s > 5 ? `, silent for ${span(told.age_s)}` : "";
  say($("[data-part=note]", card), `${total} tasks${p50}${silent}`);
  card.classList.toggle("silent", told.age_s > 5);
  $(".fates", card).replaceChildren(
    ...fates.map((fate) => {
      const item = element("li", "", kindOf(fate));
      const count = element("b", String(told.fates[fate]));
      count.append(" ", element("small", total ? `${((100 * told.fates[fate]) / total).toFixed(0)} %` : ""));
      item.append(count, element("span", FATE_WORDS[kindOf(fate)] || fate));
      return item;
    }),
  );
  $(".policies", card).replaceChildren(
    ...Object.entries(told.policies).map(([policy, counts]) => {
      const words = Object.entries(counts).filter(([, n]) => n).map(([fate, n]) => `${n} ${FATE_WORDS[kindOf(fate)] || fate}`);
      return element("li", `policy ${policy}: ${words.join(", ") || "no task yet"}`);
    }),
  );
  drawDecisions($("canvas", card), fates, told.line);
}

// Stacked bars, a second each.
function drawDecisions(canvas, fates, line) {
  fit(canvas);
  const paint = canvas.getContext("2d");
  const seconds = line[fates[0]]?.length || 0;
  const sums = Array.from({ length: seconds }, (_, i) => fates.reduce((sum, fate) => sum + line[fate][i], 0));
  const most = Math.max(...sums, 1);
  say($("#offload [data-part=most]"), `up to ${most} decisions a second`);
  const wide = canvas.width / Math.max(seconds, 1);
  const style = getComputedStyle(document.documentElement);
  paint.clearRect(0, 0, canvas.width, canvas.height);
  paint.fillStyle = style.getPropertyValue("--rule");
  paint.fillRect(0, canvas.height - 1, canvas.width, 1);
  const bottoms = new Array(seconds).fill(canvas.height - 1);
  for (const fate of fates) {
    paint.fillStyle = style.getPropertyValue(`--${kindOf(fate)}`);
    line[fate].forEach((count, i) => {
      const high = (count / most) * (canvas.height - 6);
      bottoms[i] -= high;
      if (count) paint.fillRect(i * wide, bottoms[i], Math.max(wide - 1, 1), high);
    });
  }
}

// --- how old things are ---

function showAges() {
  const quiet = (performance.now() - heardAt) / 1000;
  const lost = heardAt > 0 && quiet > 3;
  document.body.className = heardAt === 0 ? "waiting" : lost ? "lost" : "live";
  const waiting = refused ? "too many pages look at this dashboard" : "connecting";
  say($("#link span"), heardAt === 0 ? waiting : lost ? `no connection for ${span(quiet)}; trying again` : `live ${clock(0)}`);
  if (!tables) return;
  const ages = new Map(tables.topics.map((topic) => [topic.name, topic.age_s === null ? null : topic.age_s + sinceTables()]));
  const ageOf = (name) => ages.get(name) ?? null;
  age(camera.card, camera.head && !camera.head.problem ? [camera.topic] : [], ageOf);
  const { head } = map;
  age(map.card, head?.frame ? [head.way, head.sweep] : [], ageOf);
  const boxes = camera.head?.boxes_topic ? `boxes: ${camera.head.boxes_topic}` : "";
  const known = camera.head && !camera.head.problem;
  say($("#camera [data-part=note]"), known ? [camera.topic, boxes].filter(Boolean).join(" · ") : "");
  say($("#map [data-part=note]"), head?.frame ? head.notes[0] || [head.way, head.sweep, head.boxes_topic].filter(Boolean).join(" · ") : "");
}

// A picture is as old as the oldest of the topics that it is made of.
function age(card, topics, ageOf) {
  const [oldest, seconds] = topics.map((name) => [name, ageOf(name) ?? 0]).reduce((a, b) => (b[1] > a[1] ? b : a), ["", 0]);
  const isOld = seconds > OLD_S;
  $(".screen", card).classList.toggle("stale", isOld);
  const label = $(".old", card);
  label.hidden = !isOld;
  if (isOld) say(label, `${oldest}: ${span(seconds)} old`);
}

// --- the stream ---

function listen() {
  const stream = new EventSource("/events");
  stream.addEventListener("tick", (event) => {
    heardAt = performance.now();
    const news = JSON.parse(event.data);
    map.clouds = news.clouds;
    cameraNews(news.cameras);
    if (news.map !== map.version) {
      map.version = news.map;
      fetchMap();
    }
  });
  stream.addEventListener("tables", (event) => {
    heardAt = tablesAt = performance.now();
    tables = JSON.parse(event.data);
    say($("#source"), tables.source);
    say($("#progress"), tables.progress.of_s ? `${tables.progress.at_s.toFixed(1)} of ${tables.progress.of_s.toFixed(1)} s, over and over` : "");
    showAlarms();
    showTopics();
    showComponents();
    showOffload();
    const problems = Object.entries(tables.problems).map(([reason, count]) => `${reason} (${count})`);
    say($("#problems"), problems.length ? `Could not be read: ${problems.join("; ")}` : "");
    showAges();
  });
  stream.addEventListener("error", async () => {
    if (stream.readyState !== EventSource.CLOSED) return; // it tries again by itself
    refused = true; // too many pages, or another token than when this page was opened
    const answer = await fetch("/dashboard.js").catch(() => null);
    if (answer && answer.status === 401) return location.reload();
    setTimeout(listen, 2000);
  });
}

new ResizeObserver(drawCamera).observe(cameraCanvas);
setInterval(showAges, 500);
listen();
