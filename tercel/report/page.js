"use strict";
(() => {
  const marks = JSON.parse(document.getElementById("marks").textContent);
  const scenes = [...document.querySelectorAll(".scene")];
  if (!scenes.length) return;
  document.documentElement.classList.add("js");
  const slider = document.getElementById("slider");
  const clock = document.getElementById("clock");
  const play = document.getElementById("play");
  let now = -1;
  let timer = 0;

  function move(selector, place) {
    for (const cursor of document.querySelectorAll(selector)) {
      cursor.hidden = !place;
      if (place) [cursor.style.left, cursor.style.top] = place.map((v) => (v === null ? "" : v + "%"));
    }
  }

  function show(index) {
    if (now >= 0) scenes[now].classList.remove("now");
    now = index;
    scenes[now].classList.add("now");
    slider.value = now;
    const text = marks.times[now].toFixed(2) + " s";
    clock.textContent = text;
    slider.setAttribute("aria-valuetext", text);
    move(".map .cursor", marks.map && marks.map[now]);
    move(".timeline .cursor", marks.timeline && [marks.timeline[now], null]);
  }

  function stop() {
    clearTimeout(timer);
    timer = 0;
    play.textContent = "▶";
    play.setAttribute("aria-label", "Play");
  }

  // At the recording's own pace, but never slower than two instants a second.
  function step() {
    const next = (now + 1) % scenes.length;
    const gap = next > now ? (marks.times[next] - marks.times[now]) * 1000 : 1000;
    timer = setTimeout(() => { show(next); step(); }, Math.min(Math.max(gap, 80), 500));
  }

  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  play.addEventListener("click", () => {
    if (timer) return stop();
    play.textContent = "❚❚";
    play.setAttribute("aria-label", "Pause");
    step();
  });
  show(marks.first);
})();
