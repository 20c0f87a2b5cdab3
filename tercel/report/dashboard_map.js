// The map: points, path, boxes and the robot from above. A view has a middle, a scale and a turn; a finger moves it, a
// wheel or two fingers zoom.
const RAMP = [[72, 92, 132], [84, 130, 186], [124, 178, 214], [190, 220, 228], [246, 240, 214]];
const SHADES = Uint32Array.from({ length: 256 }, (_, i) => {
  const at = (i / 255) * (RAMP.length - 1);
  const low = Math.min(Math.floor(at), RAMP.length - 2);
  const [r, g, b] = RAMP[low].map((v, c) => Math.round(v + (at - low) * (RAMP[low + 1][c] - v)));
  return (255 << 24) | (b << 16) | (g << 8) | r;
});
const GROUND = "#0b0f16";

function niceStep(span) {
  const power = 10 ** Math.floor(Math.log10(span));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= span * (1 - 1e-9));
}

export class MapView {
  constructor(canvas, tools, fit) {
    this.canvas = canvas;
    this.fit = fit;
    this.middle = [0, 0];
    this.metres = 60; // over the shorter side
    this.follows = true;
    this.turns = false;
    this.head = null;
    this.fingers = new Map();
    this.buttons = Object.fromEntries([...tools.children].map((button) => [button.dataset.do, button]));
    tools.addEventListener("click", (event) => this.press(event.target.dataset.do));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(1.15 ** Math.sign(event.deltaY));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.fingers.set(event.pointerId, [event.clientX, event.clientY]);
    });
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.fingers.delete(event.pointerId));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  take(head, data, at) {
    this.head = head;
    this.path = new Float32Array(data, at, 2 * head.path);
    this.points = new Int16Array(data, at + 8 * head.path, 2 * head.points);
    this.shades = new Uint8Array(data, at + 8 * head.path + 4 * head.points, head.points);
    this.draw();
  }

  press(what) {
    if (what === "in") this.zoom(1 / 1.4);
    if (what === "out") this.zoom(1.4);
    if (what === "all") this.showAll();
    if (what === "follow") this.follows = !this.follows;
    if (what === "turn") this.turns = !this.turns;
    this.draw();
  }

  zoom(factor) {
    this.metres = Math.min(Math.max(this.metres * factor, 4), 20000);
    this.draw();
  }

  showAll() {
    if (!this.head || !this.head.path) return;
    const xs = this.path.filter((_, i) => i % 2 === 0);
    const ys = this.path.filter((_, i) => i % 2 === 1);
    const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    this.follows = false;
    this.middle = [(left + right) / 2, (low + high) / 2];
    this.metres = Math.max(10, 1.25 * Math.max(right - left, high - low));
  }

  move(event) {
    const before = this.fingers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    const other = [...this.fingers].find(([id]) => id !== event.pointerId);
    this.fingers.set(event.pointerId, now);
    if (other) {
      const apart = (place) => Math.hypot(place[0] - other[1][0], place[1] - other[1][1]);
      return this.zoom(apart(before) / Math.max(apart(now), 1));
    }
    const scale = this.metres / Math.min(this.canvas.clientWidth, this.canvas.clientHeight);
    const [dx, dy] = [(now[0] - before[0]) * scale, (now[1] - before[1]) * scale];
    if (Math.abs(dx) + Math.abs(dy) === 0) return;
    const [cos, sin] = this.turn;
    this.follows = false;
    this.middle = [this.middle[0] - (cos * dx - sin * dy), this.middle[1] + (sin * dx + cos * dy)];
    this.draw();
  }

  // Metres to pixels: x to the right and y up, or the robot's heading up.
  look() {
    const { canvas, head } = this;
    const pose = head && head.pose;
    const angle = this.turns && pose ? Math.PI / 2 - pose[2] : 0;
    this.turn = [Math.cos(angle), Math.sin(angle)];
    if (this.follows) this.middle = pose ? [pose[0], pose[1]] : [0, 0];
    this.scale = Math.min(canvas.width, canvas.height) / this.metres;
  }

  place(x, y) {
    const [dx, dy] = [(x - this.middle[0]) * this.scale, (y - this.middle[1]) * this.scale];
    const [cos, sin] = this.turn;
    return [this.canvas.width / 2 + cos * dx - sin * dy, this.canvas.height / 2 - (sin * dx + cos * dy)];
  }

  draw() {
    const ratio = this.fit(this.canvas);
    const paint = this.canvas.getContext("2d", { willReadFrequently: true });
    this.look();
    for (const name of ["follow", "turn"]) this.buttons[name].setAttribute("aria-pressed", String(name === "follow" ? this.follows : this.turns));
    paint.fillStyle = GROUND;
    paint.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.head || this.head.frame === null) return;
    this.drawPoints(paint, ratio);
    this.drawRings(paint, ratio);
    this.drawPath(paint, ratio);
    this.drawBoxes(paint, ratio);
    this.drawRobot(paint, ratio);
    this.drawScale(paint, ratio);
  }

  drawPoints(paint, ratio) {
    const { width, height } = this.canvas;
    if (!width || !height) return;
    const image = paint.getImageData(0, 0, width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const { origin, unit_m: unit, points: count } = this.head;
    const dot = Math.max(1, Math.round(2 * ratio));
    for (let i = 0; i < count; i++) {
      const [u, v] = this.place(origin[0] + this.points[2 * i] * unit, origin[1] + this.points[2 * i + 1] * unit);
      if (u < 0 || v < 0 || u >= width - dot || v >= height - dot) continue;
      const at = (v | 0) * width + (u | 0);
      for (let row = 0; row < dot; row++) for (let column = 0; column < dot; column++) pixels[at + row * width + column] = SHADES[this.shades[i]];
    }
    paint.putImageData(image, 0, 0);
  }

  drawRings(paint, ratio) {
    const [u, v] = this.head.pose ? this.place(this.head.pose[0], this.head.pose[1]) : this.place(0, 0);
    const step = niceStep(this.metres / 6);
    paint.strokeStyle = "#5d6b8066";
    paint.lineWidth = ratio;
    paint.font = `${11 * ratio}px system-ui, sans-serif`;
    paint.textAlign = "center";
    paint.textBaseline = "middle";
    for (let i = 1; i <= 6; i++) {
      const radius = i * step * this.scale;
      paint.beginPath();
      paint.arc(u, v, radius, 0, 2 * Math.PI);
      paint.stroke();
      const text = `${+(i * step).toPrecision(6)} m`;
      const [x, y] = [u + radius * Math.SQRT1_2, v - radius * Math.SQRT1_2];
      const wide = paint.measureText(text).width + 6 * ratio;
      paint.fillStyle = "#0b0f16b0";
      paint.fillRect(x - wide / 2, y - 8 * ratio, wide, 16 * ratio);
      paint.fillStyle = "#94a2b6";
      paint.fillText(text, x, y);
    }
  }

  drawPath(paint, ratio) {
    paint.strokeStyle = "#ffd166";
    paint.lineWidth = 2 * ratio;
    paint.lineJoin = "round";
    paint.beginPath();
    for (let i = 0; i < this.path.length; i += 2) paint.lineTo(...this.place(this.path[i], this.path[i + 1]));
    paint.stroke();
  }

  drawBoxes(paint, ratio) {
    paint.lineWidth = 1.8 * ratio;
    paint.font = `650 ${11 * ratio}px system-ui, sans-serif`;
    paint.textAlign = "left";
    const labels = [];
    for (const [x0, y0, x1, y1, x2, y2, x3, y3, hue, words] of this.head.boxes) {
      const corners = [[x0, y0], [x1, y1], [x2, y2], [x3, y3]].map(([x, y]) => this.place(x, y));
      const middle = this.place((x0 + x2) / 2, (y0 + y2) / 2);
      paint.strokeStyle = `hsl(${hue} 88% 64%)`;
      paint.beginPath();
      corners.forEach((corner) => paint.lineTo(...corner));
      paint.closePath();
      paint.moveTo(...middle);
      paint.lineTo((corners[0][0] + corners[3][0]) / 2, (corners[0][1] + corners[3][1]) / 2); // which way it faces
      paint.stroke();
      const right = Math.max(...corners.map(([u]) => u));
      const top = Math.min(...corners.map(([, v]) => v));
      const [wide, high] = [paint.measureText(words).width, 12 * ratio];
      if (labels.some(([x, y, w]) => right < x + w && x < right + wide && Math.abs(top - y) < high)) continue;
      labels.push([right, top, wide]);
      paint.fillStyle = `hsl(${hue} 90% 78%)`;
      paint.fillText(words, right + 2 * ratio, top);
    }
  }

  drawRobot(paint, ratio) {
    const pose = this.head.pose || [0, 0, 0];
    const [u, v] = this.place(pose[0], pose[1]);
    const heading = pose[2] + Math.atan2(this.turn[1], this.turn[0]);
    paint.save();
    paint.translate(u, v);
    paint.rotate(Math.PI / 2 - heading);
    paint.scale(ratio, ratio);
    paint.beginPath();
    for (const [x, y] of [[0, -12], [8, 9], [0, 4], [-8, 9]]) paint.lineTo(x, y);
    paint.closePath();
    paint.fillStyle = "#fff";
    paint.fill();
    paint.strokeStyle = GROUND;
    paint.stroke();
    paint.restore();
  }

  drawScale(paint, ratio) {
    const step = niceStep(this.metres / 8);
    const above = this.canvas.width / ratio < 460 ? 50 : 0; // the buttons take the whole width
    const [left, bottom] = [14 * ratio, this.canvas.height - (16 + above) * ratio];
    const text = `${+step.toPrecision(6)} m`;
    paint.fillStyle = "#0b0f16b0";
    paint.fillRect(left - 5 * ratio, bottom - 20 * ratio, Math.max(step * this.scale, paint.measureText(text).width) + 10 * ratio, 27 * ratio);
    paint.strokeStyle = paint.fillStyle = "#e4e9f0";
    paint.lineWidth = 2 * ratio;
    paint.beginPath();
    paint.moveTo(left, bottom);
    paint.lineTo(left + step * this.scale, bottom);
    paint.stroke();
    paint.textAlign = "left";
    paint.fillText(text, left, bottom - 10 * ratio);
  }
}
